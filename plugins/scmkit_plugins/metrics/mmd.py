"""Maximum mean discrepancy."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt
from jaxtyping import Float, Int

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot, itself
from scmkit_plugins.metrics._pairwise import (
    PairFunction,
    pair_mean,
    shares,
    squared_distances,
    weighted_pair_sums,
)

SUBSET = 2000
"""Vectors of the reference whose distances the median is taken of, at most."""


@dataclass(frozen=True)
class MMD(AbstractMetric):
    r"""$\sqrt{E\,k(X,X') + E\,k(Y,Y') - 2 E\,k(X,Y)}$, Gaussian kernel, as a V-statistic.

    The bandwidth is `scale` times the median distance within the reference (Gretton et al., 2012,
    Equation 5 and Section 8).
    """

    scale: Annotated[float, Gt(0)] = 1.0
    """Kernel bandwidth, in median distances of the reference."""

    needs = "real samples that differ"

    def applies(self, evaluation: Evaluation) -> bool:
        return self._bandwidth(evaluation.reference) > 0

    def __call__(self, evaluation: Evaluation) -> float:
        x, y = evaluation.samples, evaluation.reference
        kernel = self._kernel(y)
        across, *within = (pair_mean(kernel, a, b) for a, b in ((x, y), (x, x), (y, y)))
        return float(np.sqrt(max(sum(within) - 2 * across, 0.0)))

    def resampled(
        self, evaluation: Evaluation, indices: Int[np.ndarray, "r n"]
    ) -> Float[np.ndarray, " r"]:
        x, y = evaluation.samples, evaluation.reference
        kernel = self._kernel(y)
        weights, equal = shares(indices, len(x)), np.full((1, len(y)), 1 / len(y))
        across = weighted_pair_sums(kernel, x, y, weights, equal)
        within = weighted_pair_sums(kernel, x, x, weights, weights) + pair_mean(kernel, y, y)
        return np.sqrt(np.maximum(within - 2 * across, 0.0))

    def _kernel(self, reference: Float[np.ndarray, "m d"]) -> PairFunction:
        bandwidth = self._bandwidth(reference)
        return lambda square: np.exp(-square / (2 * bandwidth))

    def _bandwidth(self, reference: Float[np.ndarray, "m d"]) -> float:
        """The kernel's variance; 0 where the median distance is, and where there are no two vectors."""
        some = reference[np.random.default_rng(0).permutation(len(reference))[:SUBSET]]
        if len(some) < 2:
            return 0.0
        square = np.concatenate(list(squared_distances(some, some)))
        return self.scale**2 * float(np.median(square[~np.eye(len(some), dtype=bool)]))


plugin = Plugin(
    name="mmd",
    summary="maximum mean discrepancy, Gaussian kernel",
    provides={Slot.metric: itself},
    config=MMD,
)
