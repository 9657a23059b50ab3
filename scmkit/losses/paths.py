"""Along a sample's path: noising it, solver steps, and where a consistency model arrives."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractModel,
    AbstractNoiseProcess,
    AbstractTangentEstimator,
    Point,
    Sample,
)
from scmkit.types import Key, Scalar

LEAST_RATIO = 1e-4
"""The noise-to-signal ratio at and below which a noisy sample counts as the data itself."""


def noised(process: AbstractNoiseProcess, sample: Sample, t: Scalar, *, key: Key) -> Point:
    """The sample at time `t`, `alpha x0 + sigma eps`; `eps` is the sample's own where it is coupled to one,
    else drawn from N(0, I)."""
    eps = jr.normal(key, sample.x0.shape, sample.x0.dtype) if sample.eps is None else sample.eps
    return Point(sample.x0, eps, process.perturb(sample.x0, eps, t), t, sample.cond)


def ddim(
    process: AbstractNoiseProcess,
    x_t: Float[Array, "*shape"],
    denoised: Float[Array, "*shape"],
    t: Scalar,
    s: Scalar,
) -> Float[Array, "*shape"]:
    r"""The DDIM step from `t` to `s`: $q\,x_t + (\alpha_s - \alpha_t q)\,D$ with $q = \sigma_s/\sigma_t$.

    arXiv 2010.02502, Eq. 12.
    """
    shrink = process.sigma(s) / process.sigma(t)
    return shrink * x_t + (process.alpha(s) - process.alpha(t) * shrink) * denoised


def inv_ddim(
    process: AbstractNoiseProcess,
    x_t: Float[Array, "*shape"],
    x_s: Float[Array, "*shape"],
    t: Scalar,
    s: Scalar,
) -> Float[Array, "*shape"]:
    """The denoised sample whose DDIM step leads from `x_t` to `x_s` (arXiv 2202.00512, Appendix G)."""
    shrink = process.sigma(s) / process.sigma(t)
    return (x_s - shrink * x_t) / (process.alpha(s) - process.alpha(t) * shrink)


def heun(tangent: AbstractTangentEstimator, point: Point, r: Scalar) -> Point:
    """The point at time `r < t` by one Heun step along the tangent (arXiv 2206.00364, Algorithm 1)."""
    first = tangent(point)
    there = Point(point.x0, point.eps, point.x_t + (r - point.t) * first, r, point.cond)
    # At the data a teacher's velocity has a limit that it cannot compute: the step stays Euler's.
    inside = r > 1e-6 * point.t
    second = tangent(
        Point(there.x0, there.eps, there.x_t, jnp.maximum(r, 1e-6 * point.t), there.cond)
    )
    mean = jnp.where(inside, (first + second) / 2, first)
    return Point(point.x0, point.eps, point.x_t + (r - point.t) * mean, r, point.cond)


def arrived(
    model: AbstractModel, point: Point, *, key: Key | None = None
) -> Float[Array, "*shape"]:
    """`f(x_t, t)`, which at the data, where no network is needed, is `x_t` itself."""
    least = model.process.time_at(jnp.asarray(LEAST_RATIO, point.t.dtype))
    f = model.denoise(point.x_t, jnp.maximum(point.t, least), point.cond, key=key)
    return jnp.where(point.t > least, f, point.x_t)
