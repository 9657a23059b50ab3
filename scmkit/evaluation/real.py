"""Which real samples an evaluation reads."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from scmkit.evaluation.baselines import subset
from scmkit.evaluation.spaces import Selection
from scmkit.interfaces import UNCONDITIONED, AbstractDataset, Conditioning, Split

LIMIT = 20_000
"""Real samples that are read of a split, unless more are asked for."""


def usual_n(dataset: AbstractDataset, split: Split) -> int:
    """The number of samples where nobody says one: as many as both splits have, 2000 at the most."""
    size, other = dataset.size(split), dataset.size("train" if split == "test" else "test")
    return min(size, other or size, 2000)


@dataclass(frozen=True)
class RealData:
    """The parts of a data set that samples are held against.

    **Attributes:**

    - `dataset`: what they are parts of.
    - `reference`: as many samples of the chosen split as are drawn from the model.
    - `train`: training data.
    - `pool`: samples of the other split, from which the row of real data is drawn; `train` itself where
        that is the other split, or there is no other.
    """

    dataset: AbstractDataset
    reference: Selection
    train: Selection
    pool: Selection

    @staticmethod
    def choose(
        dataset: AbstractDataset, split: Split, n: int, rng: np.random.Generator
    ) -> "RealData":
        """Random samples: `n` of `split`; of other parts at most `LIMIT`, or `n` if that is more."""
        reference = Selection(split, np.sort(rng.permutation(dataset.size(split))[:n]))
        limit = max(LIMIT, n)
        train = Selection("train", subset(rng, dataset.size("train"), limit))
        pool = train
        if split == "train" and dataset.size("test"):
            pool = Selection("test", subset(rng, dataset.size("test"), limit))
        return RealData(dataset, reference, train, pool)

    @property
    def has_other_split(self) -> bool:
        """Whether the pool is of another split than the reference."""
        return self.pool.split != self.reference.split

    def conditioning(self, n: int) -> Conditioning:
        """`n` labels: those of the reference, over and over."""
        if not self.dataset.num_classes:
            return UNCONDITIONED
        blocks = (labels for _, labels in self.reference.blocks(self.dataset))
        labels = np.concatenate([block for block in blocks if block is not None])
        return Conditioning(jnp.asarray(labels[np.arange(n) % len(labels)]))
