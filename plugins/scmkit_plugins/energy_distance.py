"""Energy distance."""

import numpy as np

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import NoOptions, Plugin, Slot
from scmkit_plugins._pairwise import pair_mean


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


def build(config: NoOptions) -> EnergyDistance:
    return EnergyDistance()


plugin = Plugin(
    name="energy-distance",
    summary="energy distance",
    provides={Slot.metric: build},
)
