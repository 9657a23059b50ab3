"""Magnitude-preserving layers: every activation keeps unit RMS, every weight has it (arXiv 2312.02696)."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractConstrained
from scmkit.types import Key, Scalar
from scmkit_plugins.layers.normalize import wide


def unit_rms(
    x: Float[Array, "*shape"], axes: tuple[int, ...], eps: float = 1e-4
) -> Float[Array, "*shape"]:
    r"""$x / (\epsilon + \sqrt{\mathrm{mean}\, x^2})$ over the given axes (Eq. 30 and 66)."""
    y = wide(x)
    square = jnp.mean(y * y, axis=axes, keepdims=True)
    # The root has no derivative at 0: what is 0 stays 0, with a derivative of 1/eps.
    rms = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return (y / (eps + rms)).astype(x.dtype)


def mp_pixel_norm(x: Float[Array, "*space c"]) -> Float[Array, "*space c"]:
    """Unit RMS over the channels at each position."""
    return unit_rms(x, (-1,))


def normalised(w: Float[Array, "*fan_in out"]) -> Float[Array, "*fan_in out"]:
    """Unit RMS of the weights of each output."""
    return unit_rms(w, tuple(range(w.ndim - 1)))


def mp_silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`silu(x) / 0.596`, of unit RMS for normal `x` (Eq. 81)."""
    return jax.nn.silu(x) / 0.596


def mp_sum(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"], t: float
) -> Float[Array, "*shape"]:
    r"""$((1-t)\,a + t\,b) / \sqrt{(1-t)^2 + t^2}$ (Eq. 88)."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_cat(
    a: Float[Array, "*space m"], b: Float[Array, "*space n"], t: float = 0.5
) -> Float[Array, "*space k"]:
    """`a` and `b` side by side, scaled so that they contribute as `1 - t` to `t` (Eq. 103)."""
    m, n = a.shape[-1], b.shape[-1]
    scale = math.sqrt((m + n) / ((1 - t) ** 2 + t**2))
    parts = [scale * (1 - t) / math.sqrt(m) * a, scale * t / math.sqrt(n) * b]
    return jnp.concatenate(parts, axis=-1)


class MPLayer(AbstractConstrained):
    r"""A linear map or convolution without bias, whose weights are normalised wherever they are used.

    $\hat w\, g / \sqrt{fan_{in}}$ with $\hat w$ of unit RMS for each output and a gain $g$ (Eq. 47); a
    `kernel` of 0 is a linear map of the last axis, of 1 or more a convolution of that side. Stored
    weights are forced to unit RMS after each optimizer step, so that the learning rate means the same
    throughout (Eq. 66).
    """

    weight: Float[Array, "*fan_in out"]

    def __init__(self, in_: int, out: int, kernel: int = 0, *, key: Key) -> None:
        self.weight = jr.normal(key, (kernel, kernel, in_, out) if kernel else (in_, out))

    def __call__(self, x: Float[Array, "*space in"], gain: Scalar | float = 1.0) -> Array:
        fan_in = math.prod(self.weight.shape[:-1])
        w = normalised(self.weight) * (gain / math.sqrt(fan_in))
        w = w.astype(x.dtype)
        if w.ndim == 4 and w.shape[0] > 1:
            return jax.lax.conv_general_dilated(
                x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )[0]
        return x @ w.reshape(w.shape[-2:])

    def constrained(self) -> "MPLayer":
        return eqx.tree_at(lambda m: m.weight, self, normalised(self.weight))
