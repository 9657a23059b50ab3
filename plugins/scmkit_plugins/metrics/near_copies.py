"""Memorisation: how many samples are near copies of training data."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt
from jaxtyping import Bool, Float, Int

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot, itself
from scmkit_plugins.metrics._pairwise import nearest


@dataclass(frozen=True)
class NearCopies(AbstractMetric):
    """The share of samples closer to their nearest training point than almost all real test data.

    Closer than the `quantile` of the reference's own nearest-training distances: fresh data scores
    `quantile` itself, a model that memorises more. How many training points have another one that near says
    how much of it training data would score that are no copies.
    """

    quantile: Annotated[float, Gt(0), Lt(1)] = 0.05
    """The share that fresh data scores."""

    finds_training_data = True

    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        return float(self._are_near(evaluation).mean())

    def resampled(
        self, evaluation: Evaluation, indices: Int[np.ndarray, "r n"]
    ) -> Float[np.ndarray, " r"]:
        return self._are_near(evaluation)[indices].mean(1)

    def leave_one_out(self, evaluation: Evaluation) -> float | None:
        if len(evaluation.train) < 2:
            return None
        # The nearest of a training point is that point.
        return float(self._are_near(evaluation, 2).mean())

    def _are_near(self, evaluation: Evaluation, k: int = 1) -> Bool[np.ndarray, " n"]:
        """Which samples have their `k`-th nearest training point that near."""
        real = np.sqrt(nearest(evaluation.reference, evaluation.train))
        near = np.sqrt(nearest(evaluation.samples, evaluation.train, k))
        return near < np.quantile(real, self.quantile)


plugin = Plugin(
    name="near-copies",
    summary="share of samples that are near copies of training data (fresh data: 0.05)",
    provides={Slot.metric: itself},
    config=NearCopies,
)
