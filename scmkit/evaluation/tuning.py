"""The intermediate times of multistep consistency sampling, searched on the training split."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from scmkit.arguments import as_count, as_seed
from scmkit.composing.blame import blaming
from scmkit.composing.build import build_free
from scmkit.composing.conformity import expect_array, expect_number
from scmkit.composing.datasets import dataset_of
from scmkit.errors import UsageError
from scmkit.evaluation import DATA, RESAMPLES, reason
from scmkit.evaluation.intervals import around, resampled_indices
from scmkit.interfaces import AbstractMetric, AbstractModel, Conditioning, DataSpec, Evaluation
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
    """The result of a search; smaller scores are better.

    **Attributes:**

    - `angles`: the times found for the steps after the first, radians.
    - `default`: the sampler's own times.
    - `ties`: for each of `angles`, the lowest and the highest candidate that no score tells from the best.
    - `score`, `default_score`: means over fresh noise.
    - `gain`: the mean of `default_score - score` over the same noise.
    - `noise`: the standard error of `gain`.
    """

    angles: Angles
    default: Angles
    ties: tuple[tuple[float, float], ...]
    score: float
    default_score: float
    gain: float
    noise: float

    @property
    def better(self) -> bool:
        """Whether the gain is more than two standard errors."""
        return self.gain > 2 * self.noise


@dataclass(frozen=True)
class Candidate:
    """A time that was tried, its score, and the scores of resamples of its samples."""

    angle: float
    score: float
    resampled: Float[np.ndarray, " r"]


def tied(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that score like the best one, by angle.

    The 95% interval of the difference of their scores holds 0; it is bootstrapped over the same resamples of
    both, since both have the same noise.
    """
    best = min(candidates, key=lambda c: c.score)

    def alike(c: Candidate) -> bool:
        low, _ = around(c.score - best.score, c.resampled - best.resampled)
        return low <= 0

    return sorted(filter(alike, candidates), key=lambda c: c.angle)


@dataclass(frozen=True)
class Scoring:
    """Scores of angles by a metric against real data, in which smaller is better."""

    name: str
    model: AbstractModel
    data: DataSpec
    metric: AbstractMetric
    reference: Float[np.ndarray, "m d"]
    cond: Conditioning
    n: int
    seed: int

    def evaluation(self, angles: Angles, noise: int = 0) -> Evaluation:
        """Samples with these angles, from set number `noise` of the noise."""
        sampler = build_free(*SAMPLER, {"angles": angles})
        k_noise, k_sampler = jr.split(jr.fold_in(jr.key(self.seed), noise))
        start = prior(self.model, self.data, self.n, key=k_noise)
        steps = len(angles) + 1
        out = draw(self.model, sampler, start, self.cond, steps=steps, key=k_sampler)
        x = self.data.denormalize(np.asarray(out.x)).reshape(self.n, -1)
        return Evaluation(x, self.reference, self.reference)

    def score(self, evaluation: Evaluation) -> float:
        """The metric's value, negated where larger is better."""
        if not self.metric.applies(evaluation):
            raise UsageError(f"metric '{self.name}' cannot be computed here: {reason(self.metric)}")
        value = expect_number(self.metric, "metric", self.metric(evaluation))
        return -value if self.metric.larger_is_better else value

    def candidate(self, angles: Angles) -> Candidate:
        """The last of `angles` after those before it."""
        evaluation = self.evaluation(angles)
        value = self.score(evaluation)
        indices = resampled_indices(self.n, RESAMPLES, self.seed)
        values = self.metric.resampled(evaluation, indices)
        expect_array(self.metric, "resampled metric", values, (RESAMPLES,), np.floating)
        return Candidate(angles[-1], value, -values if self.metric.larger_is_better else values)


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
    Where several candidates score alike within the noise of their samples (see `tied`), the middle one of
    them is taken. The test split is not looked at. The angles found are then held against the default on
    fresh noise, since the best of many scores flatters itself.

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
    n, seed = as_count(n, "n", least=2), as_seed(seed)
    evaluations = as_count(evaluations, "evaluations", least=2)
    measure: AbstractMetric = build_free(Slot.metric, metric, (settings or {}).get(metric, {}))
    if measure.space not in (None, DATA):
        raise UsageError(f"metric '{metric}' works on features; search with one of data space")
    model, dataset = run.model, dataset_of(run.recipe)
    chosen = np.sort(np.random.default_rng(seed).permutation(dataset.size("train"))[:n])
    reference, labels = dataset.read("train", chosen)
    reference = reference.reshape(len(reference), -1)
    cond = Conditioning(None if labels is None else jnp.asarray(labels[np.arange(n) % len(labels)]))
    scoring = Scoring(metric, model, run.recipe.data, measure, reference, cond, n, seed)

    found: Angles = ()
    ties: list[tuple[float, float]] = []
    highest = math.atan(model.process.ratio_max / model.parameterization.sigma_data)
    for _ in range(steps - 1):
        candidates: list[Candidate] = []

        def tried(angle: float, before: Angles = found, seen: list = candidates) -> float:
            seen.append(scoring.candidate((*before, angle)))
            progress((*before, angle), seen[-1].score)
            return seen[-1].score

        top = found[-1] if found else highest
        golden_section(tried, min(LOWEST, top / 2), top, evaluations)
        alike = [round(c.angle, 3) for c in tied(candidates)]
        found = (*found, alike[len(alike) // 2])
        ties.append((alike[0], alike[-1]))
    default = _own_angles(run, steps)

    def fresh(angles: Angles) -> Float[np.ndarray, " checks"]:
        sets = range(1, CHECKS + 1)
        return np.asarray([scoring.score(scoring.evaluation(angles, i)) for i in sets])

    usual, ours = fresh(default), fresh(found)
    gains = usual - ours
    return Search(
        angles=found,
        default=default,
        ties=tuple(ties),
        score=float(ours.mean()),
        default_score=float(usual.mean()),
        gain=float(gains.mean()),
        noise=float(gains.std(ddof=1) / math.sqrt(CHECKS)),
    )


def _own_angles(run: Run, steps: int) -> Angles:
    """The times of the sampler itself."""
    ratio = run.recipe.plugins[SAMPLER[1]].config.get("least_ratio", 0.0)
    least = math.atan(ratio / run.recipe.data.sigma_data)
    sampler = build_free(*SAMPLER, {"least_ratio": ratio})
    return tuple(float(sampler.angle(i, steps, least)) for i in range(1, steps))


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
