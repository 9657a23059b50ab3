"""The function that users call."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scmkit_attention.primitives import Call, forward_p
from scmkit_attention.problem import Implementation, Operands, Spec


def attention(
    q: Float[Array, "*batch queries heads head_dim"],
    k: Float[Array, "*batch keys kv_heads head_dim"],
    v: Float[Array, "*batch keys kv_heads head_dim"],
    *,
    causal: bool = False,
    mask: Bool[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    scale: float | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "*batch queries heads head_dim"]:
    r"""Softmax attention, $\mathrm{softmax}(\mathrm{scale}\, q k^T + bias)\, v$ for each head.

    Every transformation of JAX passes through it, to any order, and on a GPU forward, forward with
    tangent, and backward are one fused kernel each, with memory linear in the tokens. In a
    consistency training step (the gradient of a `jvp` whose tangent is held fixed) the primal
    is computed once.

    **Arguments:**

    - `q`, `k`, `v`: queries, keys and values of one dtype; scores and sums are kept in float32
        (float64 for float64). `heads` is a multiple of `kv_heads`: query head `i` reads key head
        `i // (heads / kv_heads)`.
    - `causal`: query `i` of `n` sees keys up to `i + m - n` of `m`, so that the last query sees all.
    - `mask`: True where a query may see a key; broadcasts against `(*batch, heads, queries,
        keys)`. Padding of the keys is `mask[..., None, None, :]`. A query that may see nothing
        has output, tangent and gradient zero.
    - `bias`: added to the scores; broadcasts like `mask`, and is written out in that shape.
    - `scale`: `1 / sqrt(head_dim)` by default.
    - `implementation`: the kernel on CUDA: `"mosaic"` (Hopper), `"triton"` or `"xla"`; by default
        the fastest that supports the call. Other platforms use XLA.

    Raises `ValueError` where the shapes or dtypes do not fit, or where the kernel asked for does
    not support the call. (arXiv 2410.11081, Appendix F; arXiv 2307.08691.)
    """
    _check(q, k, v)
    *batch, n, heads, head_dim = q.shape
    m = k.shape[-3]
    b = math.prod(batch)
    full = (*batch, heads, n, m)
    x = Operands(
        *(a.reshape(b, *a.shape[-3:]) for a in (q, k, v)),
        mask=None if mask is None else _canonical_mask(mask, full),
        bias=None if bias is None else _broadcast(bias, full, "bias").reshape(b, *full[-3:]),
    )
    spec = Spec(head_dim**-0.5 if scale is None else float(scale), causal, implementation)
    call = Call(spec, masked=mask is not None, biased=bias is not None)
    o, _ = forward_p.bind(*call.unpack(x), call=call)
    return o.reshape(q.shape)


def _canonical_mask(mask: Bool[Array, "..."], full: tuple[int, ...]) -> Bool[Array, "b h n m"]:
    """The mask with its batch in one dimension, each dimension full or 1."""
    batch, rest = full[:-3], mask.shape[max(mask.ndim - 3, 0) :]
    _broadcast(mask, full, "mask")
    rest = (1,) * (3 - len(rest)) + rest
    if math.prod(mask.shape[:-3]) == 1:
        return mask.reshape(1, *rest)
    return jnp.broadcast_to(mask, (*batch, *rest)).reshape(-1, *rest)


def _broadcast(a: Array, full: tuple[int, ...], name: str) -> Array:
    try:
        return jnp.broadcast_to(a, full)
    except ValueError:
        raise ValueError(
            f"attention: {name} has shape {a.shape}, which does not broadcast against (*batch, "
            f"heads, queries, keys) = {full}"
        ) from None


def _check(q: Array, k: Array, v: Array) -> None:
    shapes = f"q {q.shape}, k {k.shape}, v {v.shape}"
    if q.ndim < 3 or k.shape != v.shape or q.shape[:-3] != k.shape[:-3]:
        raise ValueError(
            f"attention: {shapes}; they should be (*batch, tokens, heads, head_dim), k and v alike"
        )
    if q.shape[-1] != k.shape[-1] or k.shape[-2] == 0 or q.shape[-2] % k.shape[-2]:
        raise ValueError(
            f"attention: {shapes}; head_dim should be the same in all, and the heads of q a "
            f"multiple of those of k and v"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"attention: q is {q.dtype}, k {k.dtype}, v {v.dtype}; cast them to one dtype"
        )
