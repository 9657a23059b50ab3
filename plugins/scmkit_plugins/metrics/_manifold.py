"""Metrics that see a set of vectors as balls that reach to each one's k-th nearest neighbour."""

import numpy as np
from jaxtyping import Float, Int

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit_plugins.metrics._pairwise import nearest, squared_distances


class AbstractManifoldMetric(AbstractMetric):
    """A metric that compares samples with such balls; `k` counts the neighbours within each."""

    larger_is_better = True

    def __init__(self, k: int) -> None:
        self.k = k
        self.needs = f"more than {k} samples and more than {k} real ones"

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
