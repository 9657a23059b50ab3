"""Evaluation: a run's samples against real data, beside what other real data scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from scmkit.arguments import as_count, as_seed
from scmkit.composing.blame import blaming
from scmkit.composing.build import build_free
from scmkit.composing.datasets import dataset_of
from scmkit.data.derived import digest, directory_of
from scmkit.errors import UsageError
from scmkit.evaluation.baselines import REAL_LIMIT, gaussian, subset
from scmkit.evaluation.comparison import Comparison, Scores
from scmkit.evaluation.generated import generated
from scmkit.evaluation.intervals import resampled_indices
from scmkit.evaluation.rows import GAUSSIAN as GAUSSIAN
from scmkit.evaluation.rows import REAL as REAL
from scmkit.evaluation.rows import Row as Row
from scmkit.evaluation.rows import real_name
from scmkit.evaluation.rows import remarks as remarks
from scmkit.evaluation.spaces import BATCH, Progress, Selection, Space
from scmkit.evaluation.spaces import DATA as DATA
from scmkit.evaluation.usual import CLASSIFIER as CLASSIFIER
from scmkit.evaluation.usual import measures_of, usual_metrics
from scmkit.evaluation.usual import reason as reason
from scmkit.evaluation.usual import usual_features as usual_features
from scmkit.interfaces import (
    UNCONDITIONED,
    AbstractDataset,
    AbstractMetric,
    AbstractModel,
    AbstractSampler,
    Conditioning,
    DataSpec,
    Split,
)
from scmkit.plugin import Slot
from scmkit.runs.run import Run
from scmkit.sampling import draw_batches, prior, with_guidance
from scmkit.types import Key

RESAMPLES = 20
"""For intervals: their standard deviation is then known to about a sixth."""

_REAL_DRAWS = 5


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
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    baselines: bool = True,
    model: AbstractModel | None = None,
    guidance: float | None = None,
    features: str | None = None,
    resamples: int = RESAMPLES,
    split: Split = "test",
    progress: Progress = _silent,
) -> list[Row]:
    """Metrics of a run's samples at each number of steps, against real data.

    Every row uses `n` samples (default: as many as both splits have, 2000 at the most), so that the bias of
    each metric is the same in all; labels follow the split's. With `baselines` the first rows are real data
    of the other split, what a perfect model would score, and a Gaussian with the training data's mean and
    covariance. If the other split has fewer than `n`, the name of its row says so. Samples are drawn and
    mapped a batch at a time; only vectors are kept.

    **Arguments:**

    - `sampler`, `metrics`: plugins; by default the recipe's, and what is usual in the space.
    - `features`: the plugin in whose space metrics without one of their own are computed, or `"data"` for
        the data's own; by default `usual_features(dataset)`, a classifier's for images with classes.
        Features of real data are kept in `scmkit.data.derived.directory_of(dataset)`.
    - `resamples`: of the bootstrap behind the 95% intervals (see `scmkit.evaluation.intervals`); 0 for none.
    - `split`: what samples are held against.
    - `settings`: plugin options by plugin name.
    - `model`: takes the place of the run's own, such as a `Guided` one; `guidance` is what it is told.
    - `progress`: told `(what, done, total)` after each batch.

    Raises `UsageError` and `PluginError`.
    """
    recipe, options = run.recipe, dict(settings or {})
    model = model or run.model
    dataset = dataset_of(recipe)
    size = dataset.size(split)
    if not size:
        raise UsageError(f"data '{recipe.data.source}' has no {split} split; choose the other")
    other: Split = "train" if split == "test" else "test"
    n = as_count(min(size, dataset.size(other) or size, 2000) if n is None else n, "n")
    steps = steps and [as_count(count, "steps") for count in steps]
    seed = as_seed(seed)
    if resamples < 0 or resamples == 1:
        raise UsageError(f"--resamples {resamples}: give 2 or more, or 0 for no intervals")
    sampler = sampler or recipe.sampler
    named, recorded = recipe.recorded(sampler)
    draws: AbstractSampler = build_free(
        Slot.sampler, named, {**recorded, **options.get(sampler, {})}
    )
    features = features or usual_features(dataset)
    measures, left_out = measures_of(metrics or usual_metrics(features), split, options)

    rng = np.random.default_rng(seed)
    reference = Selection(split, np.sort(rng.permutation(size)[:n]))
    limit = max(REAL_LIMIT, n)
    train = Selection("train", subset(rng, dataset.size("train"), limit))
    pool = train
    if split == "train" and dataset.size("test"):
        pool = Selection("test", subset(rng, dataset.size("test"), limit))
    spaces = _spaces(dataset, measures, features, options, n)
    used = [space for space in spaces if space.features is not None]
    where = (directory_of(dataset), digest(dataset)) if used else None
    indices = resampled_indices(n, resamples, seed) if resamples else None
    comparisons = []
    for space in spaces:
        held, others = (space.of_real(dataset, s, where, progress) for s in (reference, pool))
        of_train = others if pool is train else held
        comparisons.append(Comparison(space, held, of_train, others, indices))
    facts = {s.name: {"digest": s.features.digest, **s.features.facts} for s in used if s.features}

    def row(name: str, scores: Sequence[Scores], *, n: int = n, **told: Any) -> Row:
        values = {k: v for some, _ in scores for k, v in some.items()}
        return Row(
            name=name,
            metrics={k: values[k] for k in measures if k in values},
            intervals={k: v for _, some in scores for k, v in some.items()},
            features=facts,
            larger_is_better=frozenset(k for k in values if measures[k].larger_is_better),
            n=n,
            missing=left_out | {k: reason(m) for k, m in measures.items() if k not in values},
            **told,
        )

    rows = []
    if baselines and pool.split != split:
        there = len(pool.indices)
        # Draws of all there are would be one and the same.
        draws_of_real = _REAL_DRAWS if there > n else 1
        picks = [rng.permutation(there)[:n] for _ in range(draws_of_real)]
        scores = [c.of_real(picks) for c in comparisons]
        name = real_name(split, there if there < n else None)
        rows.append(row(name, scores, nfe=None, n=min(n, there)))
    if baselines:
        images, _ = dataset.read("train", train.indices)
        fit = gaussian(rng, images.reshape(len(images), -1), n).reshape(n, *dataset.shape)
        # Features are of images, which end at -1 and 1.
        fits = [fit if s.features is None else recipe.data.clipped(fit) for s in spaces]
        scores = [c(c.space(x)) for c, x in zip(comparisons, fits, strict=True)]
        rows.append(row(GAUSSIAN, scores, nfe=None))

    cond = with_guidance(_conditioning(dataset, reference, n), n, guidance)
    k_noise, k_sampler = jr.split(jr.key(seed))
    exact = _exact_map(model, recipe.data, dataset, n, k_noise)
    for count in steps or draws.usual_steps:
        name = f"{sampler}, {count} step{'s' if count > 1 else ''}"
        keys = {"noise_key": k_noise, "key": k_sampler}
        found = generated(
            lambda c=count, k=keys: draw_batches(model, draws, recipe.data, n, cond, steps=c, **k),
            recipe.data,
            spaces,
            progress=lambda done, name=name: progress(name, done, n),
        )
        ends = exact if draws.deterministic(count) else None
        scores = [
            c(f, ends if c.space.features is None else None)
            for c, f in zip(comparisons, found.features, strict=True)
        ]
        rows.append(row(name, scores, nfe=found.nfe, seconds=found.seconds))
    return rows


def _spaces(
    dataset: AbstractDataset,
    measures: Mapping[str, AbstractMetric],
    default: str,
    options: Mapping[str, Mapping[str, Any]],
    n: int,
) -> list[Space]:
    """Each space that a metric asks for, `default` for those that do not."""
    metrics: dict[str, dict[str, AbstractMetric]] = {}
    for name, metric in measures.items():
        metrics.setdefault(metric.space or default, {})[name] = metric
    return [
        Space(
            name,
            own,
            None
            if name == DATA
            else build_free(
                Slot.features, name, options.get(name, {}), dataset, directory_of(dataset)
            ),
            batch=min(BATCH, n),
        )
        for name, own in metrics.items()
    ]


def _conditioning(dataset: AbstractDataset, reference: Selection, n: int) -> Conditioning:
    """Labels as those of the reference, over and over."""
    if not dataset.num_classes:
        return UNCONDITIONED
    blocks = (labels for _, labels in reference.blocks(dataset))
    labels = np.concatenate([block for block in blocks if block is not None])
    return Conditioning(jnp.asarray(labels[np.arange(n) % len(labels)]))


def _exact_map(
    model: AbstractModel, data: DataSpec, dataset: AbstractDataset, n: int, key: Key
) -> Float[np.ndarray, "n d"] | None:
    """The exact ends of the PF-ODE paths that start at the noise drawn with `key`, in the data's units."""
    density = dataset.density()
    if density is None:
        return None
    ours = density.affine(jnp.asarray(data.shift), jnp.asarray(data.scale))
    noise = prior(model, data, n, key=key)
    ends = jax.vmap(lambda x: ours.consistency(model.process, x, model.process.t_max))(noise)
    return data.denormalise(np.asarray(ends))
