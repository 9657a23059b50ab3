"""Two interleaved half circles in the plane."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Float, Int

from scmkit.data import ArrayDataset
from scmkit.plugin import Plugin, Slot


@dataclass(frozen=True)
class TwoMoonsOptions:
    """Options of the two-moons data set."""

    size: Annotated[int, Gt(0)] = 20_000
    """Number of samples in the train split; the test split has as many."""
    noise: Annotated[float, Ge(0)] = 0.1
    """Standard deviation of the Gaussian noise around the half circles, whose radius is 1."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the samples."""


def draw(
    rng: np.random.Generator, size: int, noise: float
) -> tuple[Float[np.ndarray, "size 2"], Int[np.ndarray, " size"]]:
    r"""Points with angle uniform on $[0, \pi]$, half of them on each moon, and which moon it is."""
    moon = rng.permutation(size) % 2
    angle = rng.uniform(0, np.pi, size)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.where(moon[:, None] == 0, upper, lower) + noise * rng.normal(size=(size, 2))
    return points.astype(np.float32), moon.astype(np.int32)


def build_dataset(config: TwoMoonsOptions) -> ArrayDataset:
    train, train_labels, test, test_labels = (
        array
        for split in (0, 1)
        for array in draw(
            np.random.Generator(np.random.Philox(key=[config.seed, split])),
            config.size,
            config.noise,
        )
    )
    return ArrayDataset(
        train, test, train_labels=train_labels, test_labels=test_labels, num_classes=2
    )


plugin = Plugin(
    name="two-moons",
    summary="two interleaved half circles in the plane, labeled by moon",
    provides={Slot.dataset: build_dataset},
    config=TwoMoonsOptions,
)
