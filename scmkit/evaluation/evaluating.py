"""Metrics of a run's samples, beside what real data scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.random as jr
import numpy as np

from scmkit.arguments import as_count, as_seed
from scmkit.composing.blame import blaming
from scmkit.composing.build import build_sampler
from scmkit.composing.datasets import dataset_of
from scmkit.errors import OptionError, UsageError, did_you_mean
from scmkit.evaluation.calibration import calibration_rows
from scmkit.evaluation.comparison import averaged
from scmkit.evaluation.generated import Drawing
from scmkit.evaluation.intervals import resampled_indices
from scmkit.evaluation.real import RealData, usual_n
from scmkit.evaluation.rows import Row
from scmkit.evaluation.spaces import DATA, Progress
from scmkit.evaluation.table import Table, compare, spaces_of
from scmkit.evaluation.usual import measures_of, usual_features, usual_metrics
from scmkit.interfaces import AbstractModel, Split
from scmkit.runs.run import Run
from scmkit.sampling import with_guidance

RESAMPLES = 20
"""Resamples behind an interval: its half width is then known to about a sixth."""

SEEDS = 4
"""Sampling seeds of `scmkit eval`: half an interval is then 1.6 standard deviations of a single value."""


def _silent(what: str, done: int, total: int) -> None: ...


@blaming()
def evaluate(
    run: Run,
    *,
    steps: Sequence[int] | None = None,
    sampler: str | None = None,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    baselines: bool = True,
    model: AbstractModel | None = None,
    guidance: float | None = None,
    features: str | None = None,
    resamples: int = RESAMPLES,
    splits: int | None = None,
    split: Split = "test",
    calibrate: bool = False,
    progress: Progress = _silent,
) -> list[Row]:
    """Metrics of a run's samples at each number of steps, against real data.

    Every row has the same number of samples, so that the bias of each metric is the same in all; their labels
    follow the split's. Samples are drawn and mapped to features a batch at a time, and only vectors are kept.

    **Arguments:**

    - `run`: the run whose samples are measured.
    - `steps`: numbers of sampling steps; by default what is usual of the sampler, and none if it is empty.
    - `sampler`, `metrics`: names of plugins; by default the recipe's sampler, and what is usual in the space.
    - `n`: samples in a row; by default as many as both splits have, 2000 at the most.
    - `seed`: the seed of the noise and of the choice of real samples.
    - `seeds`: sampling seeds, over which values are averaged; the noise of each is one for every run and
        number of steps. Intervals are Student's from 2 on: they tell of other noise, not of other data.
    - `settings`: options of plugins, by the plugin's name.
    - `baselines`: whether the first rows are real data, what a perfect model would score: the mean of random
        `splits` of both splits together; then training data held against the others, for metrics that look
        for copies of it, and a Gaussian with the training data's mean and covariance. Where there is less
        real data than twice `n`, the row's name says so.
    - `model`: the model to draw from in place of the run's own, such as a `Guided` one.
    - `guidance`: the guidance strength that the model is told.
    - `features`: the plugin in whose space metrics without one of their own are computed, or `"data"` for
        the data's own; by default `usual_features(dataset)`, a classifier's for images with classes.
        Features of real data are kept in `scmkit.data.derived.directory_of(dataset)`.
    - `resamples`: resamples of the bootstrap behind the 95% intervals of a single seed (see
        `scmkit.evaluation.intervals`); 0 for no intervals.
    - `splits`: random splits behind the row of real data; by default as many as there are resamples.
    - `split`: the split that samples are held against.
    - `calibrate`: whether the next rows are known corruptions of real data (`scmkit.evaluation.calibration`).
    - `progress`: called as `progress(what, done, total)` after each batch.

    Raises `UsageError` and `PluginError`.
    """
    recipe, options = run.recipe, dict(settings or {})
    model = model or run.model
    dataset = dataset_of(recipe)
    if not dataset.size(split):
        raise UsageError(f"data '{recipe.data.source}' has no {split} split; choose the other")
    n = as_count(usual_n(dataset, split) if n is None else n, "n")
    steps = None if steps is None else [as_count(count, "steps") for count in steps]
    seed, seeds = as_seed(seed), as_count(seeds, "seeds")
    if resamples < 0 or resamples == 1:
        raise UsageError(f"--resamples {resamples}: give 2 or more, or 0 for no intervals")
    sampler = sampler or recipe.sampler
    method = build_sampler(recipe, sampler, options.get(sampler))
    features = features or usual_features(dataset)
    names = metrics or usual_metrics(features)
    measures, left_out = measures_of(names, split, options)
    spaces_named = (metric.space for metric in measures.values() if metric.space)
    parts = sorted({sampler, features, *names, *spaces_named} - {DATA})
    for part in options:
        if part not in parts:
            raise OptionError(
                f"setting '{part}.{next(iter(options[part]), '')}': '{part}' is part of nothing here"
                f"{did_you_mean(part, parts)} (parts: {', '.join(parts)})"
            )

    rng = np.random.default_rng(seed)
    real = RealData.choose(dataset, split, n, rng)
    spaces = spaces_of(dataset, measures, features, options, n)
    indices = resampled_indices(n, resamples, seed) if resamples and seeds == 1 else None
    table = Table(compare(spaces, real, indices, progress), measures, left_out, n)
    cond = with_guidance(real.conditioning(n), n, guidance)
    keys = [jr.key(seed), *(jr.fold_in(jr.key(seed), s) for s in range(1, seeds))]
    drawings = [Drawing(model, method, recipe.data, cond, n, key) for key in keys]

    rows = []
    if baselines and real.has_other_split:
        rows.append(table.of_real(real, as_count(splits or resamples or seeds, "splits"), rng))
    if baselines and (row := table.of_training(rng)) is not None:
        rows.append(row)
    if baselines:
        rows.append(table.of_gaussian(real, recipe.data, rng, seeds))
    if calibrate:
        # Of a generator of its own: other rows are the same with and without.
        own = np.random.default_rng([seed, n])
        rows += calibration_rows(table, real, recipe.data, own, progress)
    density = dataset.density()
    exact = [drawing.exact_ends(density) for drawing in drawings]
    for count in method.usual_steps if steps is None else steps:
        name = f"{sampler}, {count} step{'s' if count > 1 else ''}"
        scores, costs = [], []
        for i, (drawing, ends) in enumerate(zip(drawings, exact, strict=True)):
            found = drawing(count, spaces, lambda done: progress(name, i * n + done, seeds * n))  # noqa: B023
            scores.append(table.scores(found, ends if method.deterministic(count) else None))
            costs.append((found.nfe, found.seconds))
        nfe, seconds = np.mean(costs, axis=0).tolist()
        told = {"nfe": nfe, "seconds": seconds, "guidance": guidance, "steps": count}
        means = [averaged(one) for one in zip(*scores, strict=True)]
        rows.append(table.row(name, means, seeds=seeds, **told))
    return rows
