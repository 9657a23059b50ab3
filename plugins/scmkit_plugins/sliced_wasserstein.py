"""Sliced Wasserstein distance."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt
from jaxtyping import Float

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot


class SlicedWasserstein(AbstractMetric):
    r"""The mean over random directions of the 1-D Wasserstein-1 distance of the projections.

    Directions are fixed by a seed (Bonneel et al., 2015, Section 3).
    """

    def __init__(self, projections: int, seed: int) -> None:
        self.projections = projections
        self.seed = seed

    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        x, y = evaluation.samples.astype(np.float64), evaluation.reference.astype(np.float64)
        directions = np.random.default_rng(self.seed).normal(size=(x.shape[1], self.projections))
        directions /= np.linalg.norm(directions, axis=0)
        # W1 in one dimension is the mean gap between quantile functions.
        levels = (np.arange(1, 513) - 0.5) / 512
        gap = _quantiles(x @ directions, levels) - _quantiles(y @ directions, levels)
        return float(np.abs(gap).mean())


def _quantiles(
    values: Float[np.ndarray, "n p"], levels: Float[np.ndarray, " q"]
) -> Float[np.ndarray, "q p"]:
    return np.sort(values, axis=0)[np.minimum((levels * len(values)).astype(int), len(values) - 1)]


@dataclass(frozen=True)
class Options:
    """Options of the sliced Wasserstein distance."""

    projections: Annotated[int, Gt(0)] = 256
    """Number of directions."""
    seed: int = 0
    """Seed of the directions."""


def build(config: Options) -> SlicedWasserstein:
    return SlicedWasserstein(config.projections, config.seed)


plugin = Plugin(
    name="sliced-wasserstein",
    summary="sliced Wasserstein-1 distance",
    provides={Slot.metric: build},
    config=Options,
)
