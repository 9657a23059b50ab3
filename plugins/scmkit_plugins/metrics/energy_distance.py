"""Energy distance."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot, itself
from scmkit_plugins.metrics._pairwise import pair_mean, shares, weighted_pair_sums


@dataclass(frozen=True)
class EnergyDistance(AbstractMetric):
    r"""$2 E\|X - Y\| - E\|X - X'\| - E\|Y - Y'\|$, as a V-statistic: never negative.

    Its value for two halves of one data set is about $E\|X-X'\|(1/n + 1/m)$, not 0: compare with the
    real-against-real row (Székely and Rizzo, 2013, Definition 1).
    """

    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        x, y = evaluation.samples, evaluation.reference
        across, *within = (pair_mean(np.sqrt, a, b) for a, b in ((x, y), (x, x), (y, y)))
        return 2 * across - sum(within)

    def resampled(
        self, evaluation: Evaluation, indices: Int[np.ndarray, "r n"]
    ) -> Float[np.ndarray, " r"]:
        x, y = evaluation.samples, evaluation.reference
        weights, equal = shares(indices, len(x)), np.full((1, len(y)), 1 / len(y))
        across = weighted_pair_sums(np.sqrt, x, y, weights, equal)
        within = weighted_pair_sums(np.sqrt, x, x, weights, weights)
        return 2 * across - within - pair_mean(np.sqrt, y, y)


plugin = Plugin(
    name="energy-distance",
    summary="energy distance",
    provides={Slot.metric: itself},
    config=EnergyDistance,
)
