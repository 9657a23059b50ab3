"""Attention against a float64 reference, under every transformation."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.layers import xla_attention

from scmkit.interfaces import DataSpec
from scmkit.plugin import Context, Slot

DATA = DataSpec(source="test", shape=(2,), num_classes=0, shift=(0.0,), scale=(1.0,))
attention = jax.jit(
    xla_attention.plugin.provides[Slot.attention](
        xla_attention.plugin.config(), Context(DATA), key=jr.key(0)
    )
)


def reference(q, k, v, dq=None, dk=None, dv=None):
    """Softmax attention and its tangent, in numpy and float64."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    scale = q.shape[-1] ** -0.5
    logits = scale * np.einsum("qhd,khd->hqk", q, k)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    out = np.einsum("hqk,khd->qhd", p, v)
    if dq is None or dk is None or dv is None:
        return out
    dq, dk, dv = (np.asarray(a, np.float64) for a in (dq, dk, dv))
    d = scale * (np.einsum("qhd,khd->hqk", dq, k) + np.einsum("qhd,khd->hqk", q, dk))
    dp = p * (d - (p * d).sum(-1, keepdims=True))
    return out, np.einsum("hqk,khd->qhd", dp, v) + np.einsum("hqk,khd->qhd", p, dv)


def draw(key, queries=7, tokens=11, heads=3, head_dim=8):
    shapes = [(n, heads, head_dim) for n in (queries, tokens, tokens)]
    return tuple(jr.normal(k, s) for k, s in zip(jr.split(key, 3), shapes, strict=True))


def test_value_and_tangent(getkey):
    primals, tangents = draw(getkey()), draw(getkey())
    out, d_out = jax.jvp(attention, primals, tangents)
    expected, d_expected = reference(*primals, *tangents)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(d_out, d_expected, atol=1e-5)


def test_reverse_mode_is_the_transpose_of_forward_mode(getkey):
    primals, tangents, g = draw(getkey()), draw(getkey()), draw(getkey())[0]
    _, d_out = jax.jvp(attention, primals, tangents)
    _, pull = jax.vjp(attention, *primals)
    pulled = sum(jnp.sum(a * b) for a, b in zip(pull(g), tangents, strict=True))
    np.testing.assert_allclose(pulled, jnp.sum(g * d_out), rtol=1e-4)


def test_gradient_of_a_tangent(getkey):
    primals, tangents = draw(getkey()), draw(getkey())

    def tangent_sum(q):
        return jnp.sum(jax.jvp(attention, (q, *primals[1:]), tangents)[1] ** 2)

    h, direction = 1e-2, tangents[0]
    slope = jnp.sum(jax.grad(tangent_sum)(primals[0]) * direction)
    ends = [tangent_sum(primals[0] + s * h * direction) for s in (1, -1)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * h), rtol=2e-2)


def test_vmap_is_a_loop(getkey):
    draws = [draw(getkey()) for _ in range(3)]
    batch = tuple(jnp.stack(arrays) for arrays in zip(*draws, strict=True))
    loop = np.stack([attention(*qkv) for qkv in draws])
    np.testing.assert_allclose(jax.vmap(attention)(*batch), loop, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_dtype_and_a_float32_softmax(dtype, getkey):
    low = tuple(a.astype(dtype) for a in draw(getkey()))
    tangents = tuple(a.astype(dtype) for a in draw(getkey()))
    out, d_out = jax.jvp(attention, low, tangents)
    assert out.dtype == d_out.dtype == dtype
    expected, d_expected = reference(*low, *tangents)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.03)
    np.testing.assert_allclose(d_out.astype(jnp.float32), d_expected, atol=0.06)


def test_large_logits_do_not_overflow(getkey):
    q, k, v = draw(getkey())
    out, d_out = jax.jvp(attention, (100 * q, 100 * k, v), (q, k, v))
    assert jnp.all(jnp.isfinite(out))
    assert jnp.all(jnp.isfinite(d_out))
    np.testing.assert_allclose(out, reference(100 * q, 100 * k, v), atol=1e-3)
