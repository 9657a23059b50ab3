"""A Gaussian mixture with two modes in each coordinate, where the exact answers are known."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Float

from scmkit.data import ArrayDataset, Mixture
from scmkit.plugin import Plugin, Slot

WEIGHTS = (0.4, 0.6)
MEANS = (-0.7, 0.5)
STDS = (0.15, 0.25)


@dataclass(frozen=True)
class GmmOptions:
    """Options of the Gaussian-mixture data set."""

    dimension: Annotated[int, Gt(0)] = 1
    """Number of coordinates, all independent and alike."""
    size: Annotated[int, Gt(0)] = 20_000
    """Number of samples in the train split; the test split has as many."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the samples."""


def draw(rng: np.random.Generator, size: int, dimension: int) -> Float[np.ndarray, "size d"]:
    """Independent samples, by component and then noise."""
    component = rng.choice(len(WEIGHTS), (size, dimension), p=WEIGHTS)
    eps = rng.normal(size=(size, dimension))
    points = np.asarray(MEANS)[component] + np.asarray(STDS)[component] * eps
    return points.astype(np.float32)


def build_density(dimension: int) -> Mixture:
    """The density the samples are drawn from."""
    weights, means, stds = (
        jnp.tile(jnp.asarray(values, jnp.float32), (dimension, 1))
        for values in (WEIGHTS, MEANS, STDS)
    )
    return Mixture(weights=weights, means=means, stds=stds)


def build_dataset(config: GmmOptions) -> ArrayDataset:
    train, test = (
        draw(
            np.random.Generator(np.random.Philox(key=[config.seed, split])),
            config.size,
            config.dimension,
        )
        for split in (0, 1)
    )
    return ArrayDataset(train, test, density=build_density(config.dimension))


plugin = Plugin(
    name="gmm",
    summary="a two-mode Gaussian mixture in each coordinate, with its exact consistency function",
    provides={Slot.dataset: build_dataset},
    config=GmmOptions,
)
