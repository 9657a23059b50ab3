"""Normalizations without parameters: float32 statistics, output in the input's dtype."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.types import sum_dtype


def wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in the dtype of sums."""
    return x.astype(sum_dtype(x.dtype))


def rms_norm(x: Float[Array, "*space c"], eps: float = 1e-6) -> Float[Array, "*space c"]:
    """`x / sqrt(mean_c x^2 + eps)` at each position (arXiv 1910.07467)."""
    y = wide(x)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def layer_norm(x: Float[Array, "*space c"], eps: float = 1e-6) -> Float[Array, "*space c"]:
    """`(x - mean_c x) / sqrt(var_c x + eps)` at each position (arXiv 1607.06450)."""
    y = wide(x)
    return rms_norm(y - jnp.mean(y, axis=-1, keepdims=True), eps).astype(x.dtype)


def group_norm(x: Float[Array, "*space c"], eps: float = 1e-5) -> Float[Array, "*space c"]:
    """Zero mean and unit variance over all positions of each group (arXiv 1803.08494).

    There are `min(32, c // 4)` groups, or the next smaller number that divides `c`.
    """
    c = x.shape[-1]
    groups = next(g for g in range(max(1, min(32, c // 4)), 0, -1) if c % g == 0)
    y = wide(x).reshape(-1, groups, c // groups)
    y = y - jnp.mean(y, axis=(0, 2), keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=(0, 2), keepdims=True) + eps)
    return y.reshape(x.shape).astype(x.dtype)
