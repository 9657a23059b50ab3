"""Checks of metrics, on samples from a Gaussian and worse ones."""

import copy
import math
from dataclasses import fields, replace

import numpy as np
from jaxtyping import Float

from scmkit.composing.entries import find
from scmkit.composing.loading import load
from scmkit.evaluation import DATA
from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close
from scmkit.testing.family import Family


def _evaluation(d: int = 4, seed: int = 0) -> Evaluation:
    """Fresh samples of the data's own distribution, others by `seed`, beside test and train splits."""
    reference, train = np.random.default_rng(0).normal(size=(2, 300, d)).astype(np.float32)
    rng = np.random.default_rng(seed + 1)
    samples = rng.normal(size=(300, d)).astype(np.float32)
    exact = samples + 0.01 * rng.normal(size=samples.shape).astype(np.float32)
    return _of(samples, Evaluation(samples, reference, train, exact))


def _of(samples: Float[np.ndarray, "n d"], evaluation: Evaluation) -> Evaluation:
    """The same with other samples, sorted into four classes by their largest coordinate."""
    odds = np.exp(3 * samples[:, :4].astype(np.float64))
    return replace(evaluation, samples=samples, probabilities=odds / odds.sum(1, keepdims=True))


def it_says_whether_it_applies(metric: AbstractMetric) -> None:
    full = _evaluation()
    require(metric.applies(full) is True, "applies must be True where there is everything")
    for name in ("exact", "probabilities"):
        without = replace(full, **{name: None})
        applies = metric.applies(without)
        require(isinstance(applies, bool), f"applies must return a bool, not {applies!r}")
        if applies:
            finite = math.isfinite(metric(without))
            require(finite, f"applies without `{name}`, but is not finite there")


def its_space_is_a_features_plugin(metric: AbstractMetric) -> None:
    if metric.space not in (None, DATA):
        slots = load(find(metric.space)).provides
        require(Slot.features in slots, f"the plugin '{metric.space}' of `space` is no features")


def values_are_finite_floats(metric: AbstractMetric) -> None:
    # As features often are, with more dimensions than samples, too.
    for d in (4, 512):
        value = metric(_evaluation(d))
        require(isinstance(value, float), f"the value must be a float, not a {type(value)}")
        require(math.isfinite(value), f"the value for real samples of {d} dimensions is {value}")


def values_are_deterministic(metric: AbstractMetric) -> None:
    first, second = metric(_evaluation()), metric(_evaluation())
    require(first == second, f"two calls on the same samples give {first:g} and {second:g}")


def worse_samples_score_worse(metric: AbstractMetric) -> None:
    real = _evaluation()
    # A metric may be blind to some of what is wrong with them, but not to all.
    worse = {
        "shifted": real.samples + 3,
        "spread out": real.samples * 3,
        "all alike": np.zeros_like(real.samples),
        "copies of training data": real.train.copy(),
    }
    scores = {name: metric(_of(x, real)) for name, x in worse.items()}
    good = metric(real)
    noise = max(abs(metric(_evaluation(seed=seed)) - good) for seed in range(1, 5))
    sign, better = (-1, "larger") if metric.larger_is_better else (1, "smaller")
    shown = ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
    require(
        sign * good + 2 * noise < max(sign * score for score in scores.values()),
        f"{better} must be better, but real samples score {good:.4g}, others of them {noise:.4g} more or "
        f"less, and none scores worse: {shown}",
    )


def the_input_is_left_alone(metric: AbstractMetric) -> None:
    given = _evaluation()
    before = copy.deepcopy(given)
    metric(given)
    for name in (field.name for field in fields(Evaluation)):
        require(np.array_equal(getattr(given, name), getattr(before, name)), f"{name} was modified")


def resampling_is_of_the_samples(metric: AbstractMetric) -> None:
    real = _evaluation()
    indices = np.random.default_rng(0).integers(len(real.samples), size=(3, len(real.samples)))
    one_by_one = np.asarray([metric(real.at(row)) for row in indices])
    require_close(metric.resampled(real, indices), one_by_one, "resampled", tolerance=1e-5)


FAMILY = Family(
    lambda bench: bench.build_free(Slot.metric),
    (
        it_says_whether_it_applies,
        its_space_is_a_features_plugin,
        values_are_finite_floats,
        values_are_deterministic,
        worse_samples_score_worse,
        the_input_is_left_alone,
        resampling_is_of_the_samples,
    ),
)
