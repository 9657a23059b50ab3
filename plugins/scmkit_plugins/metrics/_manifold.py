"""Metrics that see a set of vectors as balls that reach to each one's k-th nearest neighbour."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt
from jaxtyping import Float, Int

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit_plugins.metrics._pairwise import nearest, squared_distances


@dataclass(frozen=True)
class AbstractManifoldMetric(AbstractMetric):
    """A metric that compares samples with such balls."""

    k: Annotated[int, Gt(0)] = 3
    """Each vector reaches to its k-th nearest neighbour."""
    larger_is_better = True

    @property
    def needs(self) -> str:
        return f"more than {self.k} samples and more than {self.k} real ones"

    def applies(self, evaluation: Evaluation) -> bool:
        return min(len(evaluation.samples), len(evaluation.reference)) > self.k


def radii(centres: Float[np.ndarray, "m d"], k: int) -> Float[np.ndarray, " m"]:
    """The squared radius of each ball."""
    # Each is its own nearest neighbour, which does not count.
    return nearest(centres, centres, k + 1)


def memberships(
    points: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "m d"], k: int
) -> Int[np.ndarray, " n"]:
    """In how many of the balls around `centres` each point lies."""
    reach = radii(centres, k)
    blocks = squared_distances(points, centres)
    return np.concatenate([(block <= reach).sum(1) for block in blocks])
