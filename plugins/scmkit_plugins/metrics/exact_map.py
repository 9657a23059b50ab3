"""Error to the exact map, where the data's density is known."""

from dataclasses import dataclass

import numpy as np

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot, itself


@dataclass(frozen=True)
class ExactMapError(AbstractMetric):
    """RMS over samples and coordinates of the difference to the exact end of each PF-ODE path.

    For data sets with a closed-form density and samples drawn without fresh noise on the way.
    """

    space = "data"
    needs = "data whose density is known, and a sampler that adds no noise on the way"

    def applies(self, evaluation: Evaluation) -> bool:
        return evaluation.exact is not None

    def __call__(self, evaluation: Evaluation) -> float:
        assert evaluation.exact is not None
        difference = evaluation.samples.astype(np.float64) - evaluation.exact
        return float(np.sqrt((difference**2).mean()))


plugin = Plugin(
    name="exact-map",
    summary="RMS error to the exact PF-ODE map, where the density is known",
    provides={Slot.metric: itself},
    config=ExactMapError,
)
