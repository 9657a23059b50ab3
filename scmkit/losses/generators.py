"""One- and few-step generation inside a loss, and gradients that are given as a field."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractModel, Conditioning
from scmkit.types import Key, Scalar


def surrogate(x: Float[Array, "*shape"], field: Float[Array, "*shape"]) -> Scalar:
    """A value whose gradient in `x` is `field` divided by the number of entries; the value itself is
    `mean(field^2) / 2`."""
    field = jax.lax.stop_gradient(field)
    return 0.5 * jnp.mean((x - jax.lax.stop_gradient(x) + field) ** 2)


def generated(
    generator: AbstractModel, shape: tuple[int, ...], cond: Conditioning, *, key: Key
) -> Float[Array, "*shape"]:
    """A sample of a given shape that the generator makes in one step."""
    process = generator.process
    return generator.denoise(process.prior(shape, key=key), process.t_max, cond)


def rollout(
    generator: AbstractModel,
    shape: tuple[int, ...],
    times: Float[Array, " k"],
    cond: Conditioning,
    *,
    key: Key,
) -> Float[Array, "*shape"]:
    """A sample made in `1 + k` steps: from the prior to the data, back to each of `times` with fresh noise,
    and to the data again.

    The gradient passes through the last step only (arXiv 2510.08431, Section 3.4).
    """
    process = generator.process
    k_prior, k_noise = jr.split(key)
    x, t = process.prior(shape, key=k_prior), process.t_max
    for i in range(times.shape[0]):
        x0 = jax.lax.stop_gradient(generator.denoise(x, t, cond))
        t = times[i]
        x = process.perturb(x0, jr.normal(jr.fold_in(k_noise, i), shape, x0.dtype), t)
    return generator.denoise(x, t, cond)
