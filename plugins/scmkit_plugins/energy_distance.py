"""Energy distance."""

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import NoOptions, Plugin, Slot
from scmkit_plugins._pairwise import distances


class EnergyDistance(AbstractMetric):
    r"""$2 E\|X - Y\| - E\|X - X'\| - E\|Y - Y'\|$, as a V-statistic: never negative.

    Its value for two halves of one data set is about $E\|X-X'\|(1/n + 1/m)$, not 0: compare with the
    real-against-real row (Székely and Rizzo, 2013, Definition 1).
    """

    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        x, y = evaluation.samples, evaluation.reference
        return float(2 * distances(x, y).mean() - distances(x, x).mean() - distances(y, y).mean())


def build(config: NoOptions) -> EnergyDistance:
    return EnergyDistance()


plugin = Plugin(
    name="energy-distance",
    summary="energy distance in data space",
    provides={Slot.metric: build},
)
