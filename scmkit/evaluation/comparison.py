"""Samples held against real data, in one space."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from scmkit.composing.conformity import expect_array, expect_number
from scmkit.evaluation.intervals import Interval, around
from scmkit.evaluation.spaces import Space, taken
from scmkit.interfaces import Evaluation, Features

Scores = tuple[dict[str, float], dict[str, Interval]]
"""Values and intervals by metric."""


@dataclass(frozen=True)
class Comparison:
    """The real data that samples are held against, in one space.

    **Attributes:**

    - `reference`, `train`: as in `Evaluation`.
    - `pool`: real data of the other split, which takes the place of samples in the row of real data.
    - `indices`: of resamples, or None for no intervals.
    """

    space: Space
    reference: Features
    train: Features
    pool: Features
    indices: Int[np.ndarray, "r n"] | None

    def _evaluation(self, found: Features) -> Evaluation:
        return Evaluation(
            samples=found.vectors,
            reference=self.reference.vectors,
            train=self.train.vectors,
            probabilities=found.probabilities,
        )

    def __call__(self, found: Features, exact: Float[np.ndarray, "n d"] | None = None) -> Scores:
        """Scores of samples; `exact` as in `Evaluation`. Intervals are bootstrapped."""
        evaluation = replace(self._evaluation(found), exact=exact)
        metrics = {k: m for k, m in self.space.metrics.items() if m.applies(evaluation)}
        values = {
            k: expect_number(metric, "metric", metric(evaluation)) for k, metric in metrics.items()
        }
        if self.indices is None:
            return values, {}
        spread = {k: metric.resampled(evaluation, self.indices) for k, metric in metrics.items()}
        for k, metric in metrics.items():
            expect_array(metric, "resampled metric", spread[k], (len(self.indices),), np.floating)
        return values, {k: around(values[k], spread[k]) for k in metrics}

    def of_real(self, draws: Sequence[Int[np.ndarray, " n"]]) -> Scores:
        """Mean scores of draws from the pool; intervals are from their spread, where there are several.

        Metrics that look for copies of training data are left out: the pool may be training data.
        """
        values: dict[str, list[float]] = {}
        for draw in draws:
            evaluation = self._evaluation(taken(self.pool, draw))
            for name, metric in self.space.metrics.items():
                if metric.applies(evaluation) and not metric.finds_training_data:
                    values.setdefault(name, []).append(
                        expect_number(metric, "metric", metric(evaluation))
                    )
        means = {k: float(np.mean(v)) for k, v in values.items()}
        if self.indices is None or len(draws) < 2:
            return means, {}
        return means, {k: around(means[k], np.asarray(v)) for k, v in values.items()}
