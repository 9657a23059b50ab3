"""A checkerboard in the plane: a density with many modes and sharp edges."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Float

from scmkit.data import ArrayDataset
from scmkit.plugin import Plugin, Slot


@dataclass(frozen=True)
class CheckerboardOptions:
    """Options of the checkerboard data set."""

    size: Annotated[int, Gt(0)] = 20_000
    """Number of samples in the train split; the test split has as many."""
    noise: Annotated[float, Ge(0)] = 0.0
    """Standard deviation of Gaussian noise that blurs the fields, whose side is 1."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the samples."""


def draw(rng: np.random.Generator, size: int, noise: float) -> Float[np.ndarray, "size 2"]:
    """Points uniform on the eight dark fields of a 4x4 board over [-2, 2)^2."""
    column = rng.integers(0, 4, size)
    row = 2 * rng.integers(0, 2, size) + column % 2
    corner = np.stack([column, row], axis=1) - 2.0
    points = corner + rng.uniform(size=(size, 2)) + noise * rng.normal(size=(size, 2))
    return points.astype(np.float32)


def build_dataset(config: CheckerboardOptions) -> ArrayDataset:
    train, test = (
        draw(
            np.random.Generator(np.random.Philox(key=[config.seed, split])),
            config.size,
            config.noise,
        )
        for split in (0, 1)
    )
    return ArrayDataset(train, test)


plugin = Plugin(
    name="checkerboard",
    summary="uniform on the dark fields of a 4x4 board in the plane, unlabeled",
    provides={Slot.dataset: build_dataset},
    config=CheckerboardOptions,
)
