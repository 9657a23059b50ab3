"""Heads in groups, and the matrix products of attention: what its forms in XLA share.

Scores are `b g r n m`: samples, key heads, query heads for each of them, queries, keys.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from scmkit.types import sum_dtype
from scmkit_attention.problem import (
    precision,
)

Scores = Float[Array, "b g r n m"]
Rows = Float[Array, "b g r n 1"]
Values = Float[Array, "b g r n d"]


def split(q: Float[Array, "b n h d"], g: int) -> Values:
    """Query heads grouped by the key head that they read, heads before tokens."""
    b, n, h, d = q.shape
    return q.reshape(b, n, g, h // g, d).transpose(0, 2, 3, 1, 4)


def merge(o: Values, dtype: jnp.dtype) -> Float[Array, "b n h d"]:
    """The inverse of `split`, in `dtype`."""
    b, g, r, n, d = o.shape
    return o.transpose(0, 3, 1, 2, 4).reshape(b, n, g * r, d).astype(dtype)


def grouped(a: Shaped[Array, "b h n m"], g: int) -> Shaped[Array, "b g2 r n m"]:
    """A mask or bias with its heads grouped; a single head stays single."""
    b, h, n, m = a.shape
    return a[:, None] if h == 1 else a.reshape(b, g, h // g, n, m)


def by_group(rows: Float[Array, "b h n"], g: int) -> Rows:
    """One number for each query and head, to broadcast against scores."""
    b, h, n = rows.shape
    return rows.reshape(b, g, h // g, n)[..., None]


def by_head(rows: Rows) -> Float[Array, "b h n"]:
    """The inverse of `by_group`."""
    b, g, r, n, _ = rows.shape
    return rows[..., 0].reshape(b, g * r, n)


def products(q: Values, k: Float[Array, "b m g d"]) -> Scores:
    """`q k^T`."""
    return _einsum("bgrnd,bmgd->bgrnm", q, k)


def mix(p: Scores, v: Float[Array, "b m g d"]) -> Values:
    """`p v`, with `p` rounded to the dtype of `v`."""
    return _einsum("bgrnm,bmgd->bgrnd", p.astype(v.dtype), v)


def mix_transposed(p: Scores, q: Values) -> Float[Array, "b m g d"]:
    """`p^T q`, summed over the query heads of a group, with `p` rounded to the dtype of `q`."""
    return _einsum("bgrnm,bgrnd->bmgd", p.astype(q.dtype), q)


def _einsum(formula: str, a: Array, b: Array) -> Array:
    return jnp.einsum(
        formula, a, b, precision=precision(a.dtype), preferred_element_type=sum_dtype(a.dtype)
    )
