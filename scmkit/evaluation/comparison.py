"""Samples held against real data, in one space."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from scmkit.composing.conformity import expect_array, expect_number
from scmkit.evaluation.intervals import Interval, around, estimate
from scmkit.evaluation.spaces import Space, joined, taken
from scmkit.interfaces import Evaluation, Features

Split = tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]
"""Two sets of indices of real data."""

Scores = tuple[dict[str, float], dict[str, Interval]]
"""Values and intervals by metric."""


@dataclass(frozen=True)
class Comparison:
    """The real data that samples are held against, in one space.

    **Attributes:**

    - `reference`, `train`: as in `Evaluation`.
    - `pool`: real data of the other split, as in `RealData`.
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

    def of_real(self, splits: Sequence[Split]) -> Scores:
        """Mean scores of random splits of real data, `RealData.splits`; intervals are where 95% lie.

        Metrics that look for copies of training data have that of the reference: splits hold training data.
        """
        everything = joined([self.reference, self.pool])
        values: dict[str, list[float]] = {}
        for one, other in splits:
            held = replace(self, reference=taken(everything, other))
            evaluation = held._evaluation(taken(everything, one))
            for name, metric in self.space.metrics.items():
                if metric.applies(evaluation) and not metric.finds_training_data:
                    value = expect_number(metric, "metric", metric(evaluation))
                    values.setdefault(name, []).append(value)
        seekers = {k: m for k, m in self.space.metrics.items() if m.finds_training_data}
        held = replace(self, space=replace(self.space, metrics=seekers), indices=None)
        copies, _ = held(self.reference)
        means = {k: float(np.mean(v)) for k, v in values.items()}
        spread = {k: around(means[k], np.asarray(v)) for k, v in values.items() if len(v) > 1}
        return {**means, **copies}, spread

    def of_training(self, some: Int[np.ndarray, " n"]) -> Scores:
        """The scores of some training data against the others, of the metrics that have such."""
        evaluation = self._evaluation(taken(self.train, some))
        found = {k: m.leave_one_out(evaluation) for k, m in self.space.metrics.items()}
        return {k: v for k, v in found.items() if v is not None}, {}


def averaged(scores: Sequence[Scores]) -> Scores:
    """Means over sampling seeds with Student's intervals; of a single seed what it has."""
    if len(scores) == 1:
        return scores[0]
    values: dict[str, list[float]] = {}
    for some, _ in scores:
        for name, value in some.items():
            values.setdefault(name, []).append(value)
    found = {k: estimate(v) for k, v in values.items()}
    return {k: e.mean for k, e in found.items()}, {
        k: (e.mean - e.half, e.mean + e.half) for k, e in found.items() if e.half is not None
    }
