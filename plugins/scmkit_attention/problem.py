"""What one call of attention is: its arrays in one layout, and what is known when it is traced."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Implementation = Literal["mosaic", "triton", "xla"]


@dataclass(frozen=True)
class Spec:
    """What is known when a call is traced."""

    scale: float
    """Factor of `q k^T`."""
    causal: bool
    """Query `i` of `n` sees keys up to `i + m - n` of `m`: the last query sees every key."""
    implementation: Implementation | None
    """Kernel to use on CUDA; None for the fastest that supports the call."""


class Operands(NamedTuple):
    """Arrays of attention for `b` samples, `n` queries, `m` keys, `h` query and `g` key heads.

    `h` is a multiple of `g`; query head `i` reads key head `i // (h / g)`. Each dimension of `mask`
    is full or 1.
    """

    q: Float[Array, "b n h d"]
    k: Float[Array, "b m g d"]
    v: Float[Array, "b m g d"]
    mask: Bool[Array, "#b #h #n #m"] | None = None
    bias: Float[Array, "b h n m"] | None = None


class Differentials(NamedTuple):
    """Tangents or cotangents of the differentiable operands; `bias` is None where there is none."""

    q: Float[Array, "b n h d"]
    k: Float[Array, "b m g d"]
    v: Float[Array, "b m g d"]
    bias: Float[Array, "b h n m"] | None = None


Output = Float[Array, "b n h d"]
LogSumExp = Float[Array, "b h n"]
"""Logarithm of the softmax's denominator, in the dtype of sums; -inf where a row is masked."""


def precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """Precision of matrix products: float32 operands are multiplied in float32, not in TF32."""
    return jax.lax.Precision.HIGHEST if jnp.finfo(dtype).bits >= 32 else None
