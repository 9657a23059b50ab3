"""One- and few-step generation inside a loss, and gradients that are given as a field."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractModel, Conditioning
from scmkit.types import Key, Scalar

T = TypeVar("T")


def surrogate(x: Float[Array, "*shape"], field: Float[Array, "*shape"]) -> Scalar:
    """A value whose gradient in `x` is `field` divided by the number of entries; the value itself is
    `mean(field^2) / 2`."""
    field = jax.lax.stop_gradient(field)
    return 0.5 * jnp.mean((x - jax.lax.stop_gradient(x) + field) ** 2)


def generated(
    generator: AbstractModel, shape: tuple[int, ...], cond: Conditioning, *, key: Key
) -> Float[Array, "*shape"]:
    """A sample of a given shape that the generator makes in one step."""
    noise = generator.process.prior(shape, key=key)
    return generator.denoise(noise, generator.process.t_max.astype(noise.dtype), cond)


def rollout(
    generator: AbstractModel,
    shape: tuple[int, ...],
    times: Float[Array, " k"],
    cond: Conditioning,
    *,
    count: Int[Array, ""] | int | None = None,
    key: Key,
) -> Float[Array, "*shape"]:
    """A sample made in `1 + count` steps: from the prior to the data, back to each of the first `count` of
    `times` with fresh noise, and to the data again; by default `count` is all of them.

    The gradient passes through the last step only (arXiv 2510.08431, Section 3.4), so that `count` may be
    traced.
    """
    process, still = generator.process, frozen(generator)
    k_prior, k_noise = jr.split(key)

    def again(i: Int[Array, ""], state: tuple[Array, Scalar]) -> tuple[Array, Scalar]:
        x0 = still.denoise(*state, cond)
        eps = jr.normal(jr.fold_in(k_noise, i), shape, x0.dtype)
        return process.perturb(x0, eps, times[i]), times[i]

    start = (process.prior(shape, key=k_prior), process.t_max.astype(times.dtype))
    steps = times.shape[0] if count is None else count
    x, t = jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, again, start))
    return generator.denoise(x, t, cond)


def frozen(tree: T) -> T:
    """A tree whose arrays get no gradient; gradients still pass through what it computes from others."""
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree
    )
