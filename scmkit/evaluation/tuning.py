"""The intermediate times of multistep consistency sampling, searched on the training split."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from scmkit.arguments import as_count, as_seed
from scmkit.composing.blame import blaming
from scmkit.composing.build import build_free
from scmkit.composing.conformity import expect_number
from scmkit.composing.datasets import dataset_of
from scmkit.errors import UsageError
from scmkit.evaluation import DATA, reason
from scmkit.interfaces import AbstractMetric, Conditioning, Evaluation
from scmkit.plugin import Slot
from scmkit.runs.run import Run
from scmkit.sampling import draw, prior

SAMPLER = (Slot.sampler, "consistency")
"""Whose option `angles` is searched."""

LOWEST = 0.05
"""The smallest angle tried, radians: a ratio of 0.05 sigma_data."""

CHECKS = 8
"""Fresh sets of noise on which what was found is compared with the default."""

Angles = tuple[float, ...]


@dataclass(frozen=True)
class Search:
    """What a search found: smaller scores are better.

    **Attributes:**

    - `angles`, `default`: the best times of the steps after the first and the sampler's own, radians.
    - `score`, `default_score`: means over fresh noise.
    - `gain`: the mean of `default_score - score` over the same noise, and `noise` its standard error.
    """

    angles: Angles
    default: Angles
    score: float
    default_score: float
    gain: float
    noise: float

    @property
    def better(self) -> bool:
        """Whether the gain is more than two standard errors."""
        return self.gain > 2 * self.noise


@blaming()
def search_angles(
    run: Run,
    *,
    steps: int = 2,
    metric: str = "energy-distance",
    n: int = 1000,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    evaluations: int = 16,
    progress: Callable[[Angles, float], None] = lambda angles, score: None,
) -> Search:
    """The angles of a consistency model's `steps` steps that score best on the training split.

    One after the other, from the noise down, each by golden-section search below the one before, with the
    same noise for all candidates (arXiv 2303.01469, Section 3: times found greedily, by ternary search).
    The test split is not looked at. What was found is then held against the default on fresh noise, since the
    best of many scores flatters itself.

    **Arguments:**

    - `metric`: a metric plugin that works in data space; `settings` are its options by its name.
    - `n`: samples per candidate.
    - `evaluations`: candidates per angle.
    - `progress`: called with every candidate and its score.

    Raises `UsageError` for less than two steps, a run that another sampler draws from, or a metric that does
    not apply.
    """
    if run.recipe.sampler != SAMPLER[1]:
        raise UsageError(
            f"'{run.path}' is sampled by '{run.recipe.sampler}'; only consistency models have such times"
        )
    if steps < 2:
        raise UsageError(f"--steps {steps}: one step has no intermediate times, take at least two")
    n, seed, evaluations = (
        as_count(n, "n", least=2),
        as_seed(seed),
        as_count(evaluations, "evaluations", least=2),
    )
    measure: AbstractMetric = build_free(Slot.metric, metric, (settings or {}).get(metric, {}))
    if measure.space not in (None, DATA):
        raise UsageError(f"metric '{metric}' works on features; search with one of data space")
    model, data, dataset = run.model, run.recipe.data, dataset_of(run.recipe)
    size = dataset.size("train")
    chosen = np.sort(np.random.default_rng(seed).permutation(size)[:n])
    reference, labels = dataset.read("train", chosen)
    reference = reference.reshape(len(reference), -1)
    cond = Conditioning(None if labels is None else jnp.asarray(labels[np.arange(n) % len(labels)]))

    def score(angles: Angles, of: int = 0) -> float:
        sampler = build_free(*SAMPLER, {"angles": angles})
        k_noise, k_sampler = jr.split(jr.fold_in(jr.key(seed), of))
        noise = prior(model, data, n, key=k_noise)
        out = draw(model, sampler, noise, cond, steps=len(angles) + 1, key=k_sampler)
        x = data.denormalise(np.asarray(out.x)).reshape(n, -1)
        evaluation = Evaluation(x, reference, reference)
        if not measure.applies(evaluation):
            raise UsageError(f"metric '{metric}' cannot be computed here: {reason(measure)}")
        value = expect_number(measure, "metric", measure(evaluation))
        return -value if measure.larger_is_better else value

    def tried(angles: Angles) -> float:
        value = score(angles)
        progress(angles, value)
        return value

    found: Angles = ()
    highest = math.atan(model.process.ratio_max / model.parameterization.sigma_data)
    for _ in range(steps - 1):
        top = found[-1] if found else highest
        low = min(LOWEST, top / 2)
        best = golden_section(lambda a, before=found: tried((*before, a)), low, top, evaluations)
        found = (*found, best)
    found = tuple(round(a, 3) for a in found)
    default = tuple(float(build_free(*SAMPLER, {}).angle(i, steps)) for i in range(1, steps))
    pairs = np.asarray([(score(default, i), score(found, i)) for i in range(1, CHECKS + 1)])
    gains = pairs[:, 0] - pairs[:, 1]
    return Search(
        angles=found,
        default=default,
        score=float(pairs[:, 1].mean()),
        default_score=float(pairs[:, 0].mean()),
        gain=float(gains.mean()),
        noise=float(gains.std(ddof=1) / math.sqrt(CHECKS)),
    )


def golden_section(
    function: Callable[[float], float], low: float, high: float, evaluations: int
) -> float:
    """Where a function with one valley is smallest, after so many evaluations (Kiefer, 1953)."""
    part = (math.sqrt(5) - 1) / 2
    left, right = high - part * (high - low), low + part * (high - low)
    at = {left: function(left), right: function(right)}
    for _ in range(evaluations - 2):
        if at[left] < at[right]:
            high, right, left = right, left, right - part * (right - low)
            new = left
        else:
            low, left, right = left, right, left + part * (high - left)
            new = right
        at[new] = function(new)
    return min(at, key=lambda a: at[a])
