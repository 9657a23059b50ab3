"""Evaluation: a run's samples against the test split, beside what real data scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from scmkit.assembly import build_free
from scmkit.composition import dataset_of
from scmkit.errors import UsageError
from scmkit.interfaces import (
    AbstractDataset,
    AbstractMetric,
    AbstractSampler,
    Conditioning,
    DataSpec,
    Evaluation,
)
from scmkit.model import AbstractModel
from scmkit.plugin import Slot
from scmkit.sampling import draw, prior, with_guidance
from scmkit.training.run import Run

METRICS = ("energy-distance", "sliced-wasserstein", "mmd", "near-copies", "exact-map")
"""What is computed where no metric is named; those that do not apply are left out."""

REAL, GAUSSIAN = "real (training data)", "Gaussian (training mean and covariance)"


@dataclass(frozen=True)
class Row:
    """One line of an evaluation: what was held against the test split, and how it did.

    **Attributes:**

    - `metrics`: values by metric, and in `intervals` the 95% confidence interval of each that has one.
    - `seconds`: time it took to draw one sample, without compiling; None for what was not drawn.
    - `features`: by the plugin's name, the digest and the facts of each feature space that was used.
    """

    name: str
    nfe: float | None
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float | None = None
    features: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)


def evaluate(
    run: Run,
    *,
    steps: Sequence[int] | None = None,
    sampler: str | None = None,
    metrics: Sequence[str] = METRICS,
    n: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    baselines: bool = True,
    model: AbstractModel | None = None,
    guidance: float | None = None,
) -> list[Row]:
    """Metrics of a run's samples at each number of steps, against the test split.

    Every row uses `n` samples (default: as many as the test split has, 2000 at the most), so that the
    bias of each metric is the same in all; labels follow the test split's. With `baselines` the first
    rows are real training data, what a perfect model would score, and a Gaussian with the training
    data's mean and covariance. `model` takes the place of the run's own, such as a `Guided` one, and
    `guidance` is the strength it is told. `settings` are plugin options by plugin name. Raises `UsageError`
    and `PluginError`.
    """
    recipe, options = run.recipe, dict(settings or {})
    model = model or run.model
    dataset = dataset_of(recipe)
    sampler = sampler or recipe.sampler
    recorded = recipe.plugins[sampler].config if sampler in recipe.plugins else {}
    draws: AbstractSampler = build_free(
        Slot.sampler, sampler, {**recorded, **options.get(sampler, {})}
    )
    measures: dict[str, AbstractMetric] = {
        name: build_free(Slot.metric, name, options.get(name, {})) for name in metrics
    }
    size = dataset.size("test")
    n = min(size, 2000) if n is None else n
    if not n > 0:
        raise UsageError(f"--n {n}: draw at least one sample")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(size)[: max(n, 1)])
    reference, test_labels = dataset.read("test", chosen)
    train, _ = dataset.read("train", _subset(rng, dataset.size("train"), 20_000))
    flat = [a.reshape(len(a), -1) for a in (reference, train)]

    def score(samples: Float[np.ndarray, "n *shape"], exact: Any = None) -> dict[str, float]:
        evaluation = Evaluation(samples.reshape(len(samples), -1), flat[0], flat[1], exact)
        return {k: m(evaluation) for k, m in measures.items() if m.applies(evaluation)}

    rows = []
    if baselines:
        rows += _baselines(rng, flat[1], n, score)
    cond = None
    if test_labels is not None:
        cond = Conditioning(jnp.asarray(test_labels[np.arange(n) % len(test_labels)]))
    cond = with_guidance(cond, n, guidance)
    k_noise, k_sampler = jr.split(jr.key(seed))
    noise = prior(model, recipe.data, n, key=k_noise)
    exact = _exact_map(model, recipe.data, dataset, noise)
    for count in steps or draws.usual_steps:
        out = draw(model, draws, noise, cond, steps=count, key=k_sampler)
        same_path = exact if draws.deterministic(count) else None
        rows.append(
            Row(
                f"{sampler}, {count} step{'s' if count > 1 else ''}",
                float(jnp.mean(out.nfe)),
                score(recipe.data.denormalise(np.asarray(out.x)), same_path),
            )
        )
    return rows


def _subset(rng: np.random.Generator, size: int, limit: int) -> np.ndarray:
    return np.arange(size) if size <= limit else np.sort(rng.permutation(size)[:limit])


def _baselines(
    rng: np.random.Generator,
    train: Float[np.ndarray, "k d"],
    n: int,
    score: Callable[[Float[np.ndarray, "n d"]], dict[str, float]],
) -> list[Row]:
    """What real data and a Gaussian fit score; near copies mean nothing for training data itself."""
    scores = [score(train[rng.permutation(len(train))[:n]]) for _ in range(5)]
    real = {k: float(np.mean([d[k] for d in scores])) for k in scores[0] if k != "near-copies"}
    covariance = np.cov(train, rowvar=False).reshape(train.shape[1], -1)
    gaussian = rng.multivariate_normal(train.mean(0), covariance, size=n, method="eigh")
    return [Row(REAL, None, real), Row(GAUSSIAN, None, score(gaussian.astype(np.float32)))]


def _exact_map(
    model: AbstractModel,
    data: DataSpec,
    dataset: AbstractDataset,
    noise: Float[Any, "n *shape"],
) -> Float[np.ndarray, "n d"] | None:
    """The exact ends of the PF-ODE paths that start at `noise`, in the data's units."""
    density = dataset.density()
    if density is None:
        return None
    ours = density.affine(jnp.asarray(data.shift), jnp.asarray(data.scale))
    ends = jax.vmap(lambda x: ours.consistency(model.process, x, model.process.t_max))(noise)
    return data.denormalise(np.asarray(ends))
