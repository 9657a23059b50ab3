"""Which real samples an evaluation reads."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

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
    - `pool`: samples of the other split, which the row of real data is drawn from with the reference; `train`
        itself where that is the other split, or there is no other.
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

    def splits(
        self, n: int, count: int, rng: np.random.Generator
    ) -> list[tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]]:
        """Random disjoint sets of the reference and the pool together, which no model has a part in.

        Indices into one after the other: `count` pairs of sets with `n` samples each, or half of all, if that
        is less. Sample by sample both sets have the same class, as labels of drawn samples follow those of
        the reference; else a part of every distance would be that of the classes' numbers.
        """
        labels = self._labels(self.reference, self.pool)
        total = len(self.reference.indices) + len(self.pool.indices)

        def one() -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
            order = rng.permutation(total)
            if labels is not None:
                order = order[np.argsort(labels[order], kind="stable")]
            pairs = order[: total // 2 * 2].reshape(-1, 2)
            return tuple(pairs[rng.permutation(len(pairs))[:n]].T)

        return [one() for _ in range(count)]

    def like_drawn(self, n: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
        """The indices of `n` random samples of the pool, which has as many: with the classes of drawn ones.

        Where there are too few of a class, others stand in for them.
        """
        order = rng.permutation(self.pool.indices)
        wanted, labels = self.conditioning(n).label, self.dataset.labels(self.pool.split)
        if wanted is None or labels is None:
            return order[:n]
        left: dict[int, list[int]] = {}
        for index in order.tolist():
            left.setdefault(int(labels[index]), []).append(index)
        own = [left[c].pop() if left.get(c) else None for c in np.asarray(wanted).tolist()]
        rest = iter([index for some in left.values() for index in some])
        return np.asarray([next(rest) if index is None else index for index in own])

    def _labels(self, *parts: Selection) -> Int[np.ndarray, " n"] | None:
        """The labels of parts, one after another."""
        labels = [self.dataset.labels(part.split) for part in parts]
        found = [own[p.indices] for own, p in zip(labels, parts, strict=True) if own is not None]
        return np.concatenate(found) if found else None

    def conditioning(self, n: int) -> Conditioning:
        """`n` labels: those of the reference, over and over."""
        if (labels := self._labels(self.reference)) is None:
            return UNCONDITIONED
        return Conditioning(jnp.asarray(labels[np.arange(n) % len(labels)]))
