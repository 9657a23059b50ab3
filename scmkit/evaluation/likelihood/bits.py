"""Bits per dimension of a run's data, and how the data was dequantized."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from scmkit.arguments import as_count, as_labels, as_samples, as_seed
from scmkit.composing.blame import blaming
from scmkit.composing.datasets import dataset_of
from scmkit.errors import UsageError
from scmkit.evaluation.likelihood.density import LogLikelihood, log_likelihood
from scmkit.interfaces import AbstractModel, Conditioning, DataSpec, Split
from scmkit.runs.run import Run
from scmkit.sampling import in_batches
from scmkit.types import Keys

BATCH = 32
"""Samples at once: few, since each step of the adaptive solver waits for the slowest."""
CONTINUOUS_RATIO_MIN = 2e-3


@dataclass(frozen=True)
class BitsPerDimension:
    r"""Bits per dimension of samples in the data's units; smaller is better.

    With `levels`, $-\tfrac1D \log_2 (p(x + w(u - \tfrac12))\, w^D)$, $u$ uniform and $w$ the distance of two
    levels: in expectation an upper bound on the bits in which the model codes the discrete sample
    (arXiv 1511.01844, Section 3.1). Without, $-\tfrac1D \log_2 p(x)$, a differential quantity that depends on
    the data's units and may be negative.

    **Attributes:**

    - `bits`: one value per sample.
    - `error`: its standard error over the probes; 0 for the exact trace, nan for a single probe.
    - `nfe`: network evaluations, each with as many Jacobian-vector products as dimensions or probes.
    - `levels`: how many values were dequantized; 0 where nothing was, the data being continuous.
    - `ratio_min`: the noise-to-signal ratio at which the density was taken.
    - `given_labels`: whether the density was that given the sample's label.
    """

    bits: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    nfe: Int[np.ndarray, " n"]
    levels: int
    ratio_min: float
    given_labels: bool

    @property
    def mean(self) -> float:
        """The mean over the samples."""
        return float(np.mean(self.bits))

    @property
    def interval(self) -> tuple[float, float]:
        """The mean's 95% confidence interval over the samples (normal approximation)."""
        half = 1.96 * float(np.std(self.bits, ddof=1)) / len(self.bits) ** 0.5
        return self.mean - half, self.mean + half

    @property
    def dequantization(self) -> str:
        """The dequantization, in words."""
        if not self.levels:
            return "none: the data is continuous, so this is a density in the data's units"
        return (
            f"uniform over each of {self.levels} levels: an upper bound on the discrete code length"
        )


@blaming()
def bits_per_dimension(
    run: Run, *, split: Split = "test", n: int | None = None, seed: int = 0, **options: Any
) -> BitsPerDimension:
    """Bits per dimension of `n` samples of a split (default: all) under a diffusion run.

    `options` and the rest are `bits_of_samples`'s; the labels are the data's. Raises `UsageError` for a
    consistency model, which has no PF-ODE, and for fewer than two samples.
    """
    model, dataset = run.diffusion_model, dataset_of(run.recipe)
    size = dataset.size(split)
    n = size if n is None else min(as_count(n, "n"), size)
    if n < 2:
        raise UsageError(f"{n} samples of the {split} split: an interval needs two at least")
    chosen = np.sort(np.random.default_rng(as_seed(seed)).permutation(size)[:n])
    samples, labels = dataset.read(split, chosen)
    given = {"levels": dataset.levels, "seed": seed, **options}
    return bits_of_samples(model, run.recipe.data, samples, labels, **given)


def bits_of_samples(
    model: AbstractModel,
    data: DataSpec,
    samples: Float[np.ndarray, "n *shape"],
    labels: ArrayLike | Sequence[int] | None = None,
    *,
    levels: int = 0,
    probes: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    ratio_min: float | None = None,
    seed: int = 0,
    done: Callable[[int], object] | None = None,
) -> BitsPerDimension:
    """Bits per dimension of given samples, in the data's units.

    The same seed dequantizes alike, with or without probes. The default `ratio_min` is the standard
    deviation of the dequantization noise in the model's units, so that the density is as blurred as the
    samples; for continuous data 2e-3. `probes`, `rtol` and `atol` are `log_likelihood`'s.
    """
    samples, seed = as_samples(samples, data), as_seed(seed)
    n, width = len(samples), 2 / (levels - 1) if levels else 0.0
    u = np.random.default_rng(seed).random(samples.shape, np.float32)
    x = data.normalize(samples + np.float32(width) * (u - np.float32(0.5)))
    scales = np.asarray(data.scale, np.float64)
    if ratio_min is None:
        blur = width / 12**0.5 * float(np.sqrt(np.mean(scales**2)))
        ratio_min = blur if levels else CONTINUOUS_RATIO_MIN

    options = {"probes": probes, "rtol": rtol, "atol": atol, "ratio_min": ratio_min}

    def some(x: Array, cond: Conditioning, keys: Keys) -> LogLikelihood:
        return _log_likelihoods(model, x, cond, keys, options)

    cond = Conditioning(None if labels is None else jnp.asarray(as_labels(labels, data, n)))
    args = (jnp.asarray(x), cond, jr.split(jr.key(seed), n))
    out = in_batches(some, args, BATCH, done)
    # log p in the data's units, per dimension: channels have equally many values.
    density = np.asarray(out.value, np.float64) / samples[0].size + np.mean(np.log(np.abs(scales)))
    nats = -density - (np.log(width) if levels else 0.0)
    return BitsPerDimension(
        bits=nats / np.log(2),
        error=np.asarray(out.error, np.float64) / samples[0].size / np.log(2),
        nfe=np.asarray(out.nfe) * model.evaluations,
        levels=levels,
        ratio_min=float(ratio_min),
        given_labels=labels is not None,
    )


@eqx.filter_jit
def _log_likelihoods(
    model: AbstractModel,
    x: Float[Array, "n *shape"],
    cond: Conditioning,
    keys: Keys,
    options: dict[str, Any],
) -> LogLikelihood:
    return jax.vmap(lambda x, cond, key: log_likelihood(model, x, cond, key=key, **options))(
        x, cond, keys
    )
