"""Small layers the networks share: a linear map of the last axis, dropout, and per-layer keys."""

import math
from collections.abc import Iterator
from itertools import repeat

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.types import Key


class Linear(eqx.Module):
    """`y = x W + b` over the last axis, in the dtype of `x`.

    The weight is `in out` and acts on all leading axes at once: under `vmap` that is one matrix
    product, where a per-token layer under `vmap` also transposes its operands. `scale` multiplies
    the standard deviation `in**-0.5` of the initial weights; 0 makes a layer that starts silent.
    """

    weight: Float[Array, "in out"]
    bias: Float[Array, " out"]

    def __init__(self, in_: int, out: int, *, scale: float = 1.0, key: Key) -> None:
        self.weight = initial_weight((in_, out), scale, key=key)
        self.bias = jnp.zeros(out)

    def __call__(self, x: Float[Array, "*space in"]) -> Float[Array, "*space out"]:
        return jnp.matmul(x, self.weight.astype(x.dtype)) + last_axis(self.bias, x)


def initial_weight(shape: tuple[int, ...], scale: float, *, key: Key) -> Float[Array, "..."]:
    """Normal weights of standard deviation `scale * fan_in**-0.5`; the last axis is the output's."""
    if scale == 0:  # Without a draw, whose compilation takes a CPU longer than the layer will.
        return jnp.zeros(shape)
    return scale * math.prod(shape[:-1]) ** -0.5 * jr.normal(key, shape)


def last_axis(v: Float[Array, " c"], x: Float[Array, "*space d"]) -> Float[Array, "*ones c"]:
    """`v` in the dtype of `x`, with unit axes in front so that it broadcasts over `space`."""
    return jnp.expand_dims(v.astype(x.dtype), tuple(range(x.ndim - 1)))


def dropout(x: Float[Array, "*shape"], rate: float, key: Key | None) -> Float[Array, "*shape"]:
    """Zeros with probability `rate`, the rest scaled up; the identity for a `key` of None."""
    if key is None or rate == 0:
        return x
    return jnp.where(jr.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def layer_keys(key: Key | None, n: int) -> Iterator[Key | None]:
    """`n` keys, one per layer; Nones for None."""
    return repeat(None, n) if key is None else iter(jr.split(key, n))
