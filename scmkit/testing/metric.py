"""Checks of metrics, on samples from a Gaussian and worse ones."""

import copy
import math
from dataclasses import replace

import numpy as np

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Slot
from scmkit.testing.check import require
from scmkit.testing.family import Family


def _evaluation() -> Evaluation:
    """Fresh samples of the data's own distribution, beside test and train splits."""
    rng = np.random.default_rng(0)
    samples, reference, train = rng.normal(size=(3, 300, 4)).astype(np.float32)
    exact = samples + 0.01 * rng.normal(size=samples.shape).astype(np.float32)
    return Evaluation(samples, reference, train, exact)


def it_says_whether_it_applies(metric: AbstractMetric) -> None:
    full = _evaluation()
    require(metric.applies(full) is True, "applies must be True where there is everything")
    without = replace(full, exact=None)
    applies = metric.applies(without)
    require(isinstance(applies, bool), f"applies must return a bool, not {applies!r}")
    if applies:
        require(math.isfinite(metric(without)), "applies without `exact`, but is not finite there")


def values_are_finite_floats(metric: AbstractMetric) -> None:
    value = metric(_evaluation())
    require(isinstance(value, float), f"the value must be a float, not a {type(value).__name__}")
    require(math.isfinite(value), f"the value for real samples is {value}")


def values_are_deterministic(metric: AbstractMetric) -> None:
    first, second = metric(_evaluation()), metric(_evaluation())
    require(first == second, f"two calls on the same samples give {first:g} and {second:g}")


def worse_samples_score_worse(metric: AbstractMetric) -> None:
    real = _evaluation()
    worse = {
        "shifted": real.samples + 3,
        "spread out": real.samples * 3,
        "all alike": np.zeros_like(real.samples),
        "copies of training data": real.train.copy(),
    }
    scores = {name: metric(replace(real, samples=x)) for name, x in worse.items()}
    good = metric(real)
    shown = ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
    require(
        good < max(scores.values()),
        f"smaller must be better, but real samples score {good:.4g} and none scores worse: {shown}",
    )


def the_input_is_left_alone(metric: AbstractMetric) -> None:
    given = _evaluation()
    before = copy.deepcopy(given)
    metric(given)
    for name in ("samples", "reference", "train", "exact"):
        require(np.array_equal(getattr(given, name), getattr(before, name)), f"{name} was modified")


FAMILY = Family(
    lambda bench: bench.build_free(Slot.metric),
    (
        it_says_whether_it_applies,
        values_are_finite_floats,
        values_are_deterministic,
        worse_samples_score_worse,
        the_input_is_left_alone,
    ),
)
