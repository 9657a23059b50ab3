"""Checks of attention, against softmax attention in float64 numpy."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractAttention
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import central_difference, one_by_one

QKV = tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]
SHAPES = ((5, 2, 4), (7, 2, 4), (7, 2, 4))
"""Queries, keys and values: as many queries as tokens is a special case."""


def reference(
    q: Float[np.ndarray, "queries heads head_dim"],
    k: Float[np.ndarray, "tokens heads head_dim"],
    v: Float[np.ndarray, "tokens heads head_dim"],
) -> Float[np.ndarray, "queries heads head_dim"]:
    r"""$\mathrm{softmax}(q k^T / \sqrt d)\, v$ for each head, in float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    logits = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(axis=-1, keepdims=True), v)


def values_are_softmax_attention(attention: AbstractAttention) -> None:
    qkv = _inputs()
    out = jax.jit(attention)(*qkv)
    require_close(out, reference(*map(np.asarray, qkv)), "the attention", tolerance=1e-4)


def large_logits_do_not_overflow(attention: AbstractAttention) -> None:
    q, k, v = _inputs()
    expected = reference(*map(np.asarray, (100 * q, k, v)))
    require_close(attention(100 * q, k, v), expected, "the attention at large logits")


def bfloat16_stays_bfloat16(attention: AbstractAttention) -> None:
    qkv = tuple(a.astype(jnp.bfloat16) for a in _inputs())
    out = attention(*qkv)
    require(out.dtype == jnp.bfloat16, f"bfloat16 comes out as {out.dtype}")
    expected = reference(*(np.asarray(a, np.float64) for a in qkv))
    require_close(out.astype(jnp.float32), expected, "the attention in bfloat16", tolerance=5e-2)


def forward_mode_is_right(attention: AbstractAttention) -> None:
    qkv, direction = _inputs(), _inputs(1)
    slope = jax.jit(lambda q, d: jax.jvp(attention, q, d)[1])(qkv, direction)
    require_finite(slope, "the jvp")
    wide = [tuple(np.asarray(a, np.float64) for a in given) for given in (qkv, direction)]
    expected = central_difference(reference, wide[0], wide[1], 1e-5)
    require_close(slope, expected, "the jvp, against finite differences in float64,")


def reverse_mode_is_the_transpose(attention: AbstractAttention) -> None:
    qkv, direction = _inputs(), _inputs(1)
    cotangent = jr.normal(jr.key(9), SHAPES[0])
    slope = jax.jit(lambda q, d: jax.jvp(attention, q, d)[1])(qkv, direction)
    pulled = jax.jit(lambda q, c: jax.vjp(attention, *q)[1](c))(qkv, cotangent)
    expected = sum(float(jnp.vdot(p, d)) for p, d in zip(pulled, direction, strict=True))
    require_close(jnp.vdot(cotangent, slope), expected, "<cotangent, jvp>, against vjp,")


def the_training_pass_differentiates(attention: AbstractAttention) -> None:
    # The consistency loss: the primal of a jvp is trained, its tangent is held fixed.
    qkv, direction = _inputs(), _inputs(1)

    def objective(qkv: QKV) -> Float[Array, ""]:
        out, slope = jax.jvp(attention, qkv, direction)
        return jnp.sum((out + jax.lax.stop_gradient(slope)) ** 2)

    def expected(qkv: QKV) -> Float[Array, ""]:
        fixed = jax.jvp(attention, _inputs(), direction)[1]
        return jnp.sum((attention(*qkv) + fixed) ** 2)

    found, plain = (jax.jit(jax.grad(f))(qkv) for f in (objective, expected))
    for one, name, other in zip(found, "qkv", plain, strict=True):
        require_close(one, other, f"the gradient in {name} of the primal of a jvp")


def vmap_is_a_loop(attention: AbstractAttention) -> None:
    batched = tuple(jnp.stack([a, 2 * a]) for a in _inputs())
    both = jax.jit(lambda *qkv: (jax.vmap(attention)(*qkv), one_by_one(attention, *qkv)))
    mapped, looped = both(*batched)
    require_close(mapped, looped, "the attention under vmap")


def _inputs(seed: int = 0) -> QKV:
    keys = jr.split(jr.key(seed), 3)
    q, k, v = (jr.normal(key, shape) for key, shape in zip(keys, SHAPES, strict=True))
    return q, k, v


FAMILY = Family(
    lambda bench: bench.build(Slot.attention),
    (
        values_are_softmax_attention,
        large_logits_do_not_overflow,
        bfloat16_stays_bfloat16,
        forward_mode_is_right,
        reverse_mode_is_the_transpose,
        the_training_pass_differentiates,
        vmap_is_a_loop,
    ),
)
