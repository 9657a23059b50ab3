"""The Mosaic kernels: interpreted against float64, and lowered for CUDA."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_attention import dense, mosaic
from scmkit_attention.problem import Differentials, Operands, Spec

interpreted = pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="Mosaic GPU's interpreter needs jax >= 0.11"
)

# Samples, queries, keys, heads, key heads, head_dim, causal. The first two meet most of what the others
# meet one by one: ragged lengths, a ring that is used again, shared heads, a padded head.
CASES = {
    "full": (1, 70, 300, 1, 1, 64, False),
    "causal": (1, 70, 100, 2, 1, 40, True),
}
MORE = {
    "aligned": (1, 128, 128, 1, 1, 64, False),
    "shared_heads": (2, 40, 90, 2, 1, 64, False),
    "causal_aligned": (1, 128, 128, 1, 1, 64, True),
    "causal_more_keys": (1, 60, 350, 1, 1, 64, True),
    "causal_more_queries": (1, 150, 90, 1, 1, 64, True),
    "causal_shared_heads": (1, 130, 130, 2, 1, 64, True),
    "head_128": (1, 64, 70, 1, 1, 96, False),
    "causal_head_128": (1, 64, 200, 1, 1, 128, True),
}
cases = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name) for name, case in CASES.items()]
    + [pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in MORE.items()],
)


def problem(case, dtype=jnp.bfloat16):
    b, n, m, h, g, d, causal = case
    shapes = 2 * [(b, n, h, d), (b, m, g, d), (b, m, g, d)] + [(b, n, h, d)]
    keys = jr.split(jr.key(0), len(shapes))
    q, k, v, tq, tk, tv, do = (jr.normal(*a, dtype) for a in zip(keys, shapes, strict=True))
    spec = Spec(d**-0.5, causal, None)
    return Operands(q, k, v), Differentials(tq, tk, tv), do, spec


def exact(a):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), a)


def error(a, b):
    """Root mean square of the difference, relative to that of `b`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2))


def run(function, *args):
    """The result of an interpreted kernel in which no two accesses of memory raced."""
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as interpreter

    out = jax.jit(functools.partial(function, interpret=True))(*args)
    jax.block_until_ready(out)
    assert not interpreter.get_races().races_found
    return out


@interpreted
@cases
def test_forward_and_dual_are_exact_to_rounding(case):
    x, t, _, spec = problem(case)
    with jax.enable_x64(True):
        o, lse, to = jax.device_get(dense.dual(exact(x), exact(t), spec))
    kernels = (
        run(lambda x, interpret: mosaic.forward(x, spec, interpret=interpret), x),
        run(lambda x, t, interpret: mosaic.dual(x, t, spec, interpret=interpret), x, t),
    )
    for out in kernels:
        assert error(out[0], o) < 3e-3
        np.testing.assert_allclose(out[1], lse, rtol=1e-5, atol=1e-5)
    assert error(kernels[1][2], to) < 3e-3


@interpreted
@cases
def test_backward_is_exact_to_rounding(case):
    x, _, do, spec = problem(case)
    with jax.enable_x64(True):
        o, lse = dense.forward(exact(x), spec)
        expected = jax.device_get(dense.backward(exact(x), o, lse, exact(do), spec))
        o, lse = o.astype(x.q.dtype), lse.astype(jnp.float32)
    backward = run(
        lambda *a, interpret: mosaic.backward(*a, spec, interpret=interpret), x, o, lse, do
    )
    for a, b in zip(backward[:3], expected[:3], strict=True):
        assert a.dtype == jnp.bfloat16
        assert error(a, b) < 4e-3


@interpreted
def test_rows_that_see_nothing_are_zero():
    x, t, do, spec = problem((1, 100, 60, 1, 1, 64, True))
    blind = slice(0, 100 - 60)
    o, lse, to = run(lambda x, t, interpret: mosaic.dual(x, t, spec, interpret=interpret), x, t)
    back = run(lambda *a, interpret: mosaic.backward(*a, spec, interpret=interpret), x, o, lse, do)
    for a in (o, to, back.q):
        assert not jnp.any(a[:, blind])
        assert jnp.all(jnp.isfinite(a))
    assert jnp.all(lse[:, :, blind] == -jnp.inf)
    assert jnp.all(jnp.isfinite(back.k))
    assert jnp.all(jnp.isfinite(back.v))


@interpreted
@pytest.mark.parametrize("common", [pytest.param(0.0, marks=pytest.mark.slow), 100.0])
def test_tangent_is_as_exact_when_all_keys_move_together(common):
    x, t, _, spec = problem((1, 64, 130, 1, 1, 64, False))
    t = t._replace(k=t.k + common * jr.normal(jr.key(1), (1, 1, 1, 64), jnp.bfloat16))
    with jax.enable_x64(True):
        to = jax.device_get(dense.dual(exact(x), exact(t), spec)[2])
    out = run(lambda x, t, interpret: mosaic.dual(x, t, spec, interpret=interpret), x, t)
    assert error(out[2], to) < 2.7e-3


@pytest.mark.slow
@interpreted
def test_float16():
    x, t, _, spec = problem((1, 64, 70, 1, 1, 64, False), jnp.float16)
    with jax.enable_x64(True):
        o, _, to = jax.device_get(dense.dual(exact(x), exact(t), spec))
    out = run(lambda x, t, interpret: mosaic.dual(x, t, spec, interpret=interpret), x, t)
    assert error(out[0], o) < 4e-4
    assert error(out[2], to) < 4e-4


@pytest.mark.parametrize(
    ("d", "causal", "dtype", "x64"),
    [
        (64, True, jnp.bfloat16, True),
        (96, False, jnp.float16, False),
        pytest.param(64, False, jnp.bfloat16, False, marks=pytest.mark.slow),
        pytest.param(128, True, jnp.bfloat16, False, marks=pytest.mark.slow),
    ],
)
def test_lowers_for_cuda(d, causal, dtype, x64):
    q, k = (jax.ShapeDtypeStruct((2, n, h, d), dtype) for n, h in ((200, 4), (300, 2)))
    lse = jax.ShapeDtypeStruct((2, 4, 200), jnp.float32)
    spec = Spec(d**-0.5, causal, None)

    def everything(q, k, lse):
        x = Operands(q, k, k)
        return (
            mosaic.forward(x, spec),
            mosaic.dual(x, Differentials(q, k, k), spec),
            mosaic.backward(x, q, lse, q, spec),
        )

    with jax.enable_x64(x64):
        lowered = jax.jit(everything).trace(q, k, lse).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    for name in ("forward", "dual", "dq", "dkv"):
        assert f"attention_{name}" in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"d": 32}, "head_dim 32 <= 32"),
        ({"d": 192}, "head_dim 192 > 128"),
        ({"dtype": jnp.float32}, "float32"),
        ({"mask": True}, "masks"),
        ({"bias": True}, "additive bias"),
        ({"scale": -1.0}, "scale -1.0 <= 0"),
        ({"v": jnp.float16}, "operands of different dtypes"),
    ],
)
def test_says_what_it_does_not_support(change, reason):
    d, dtype = change.get("d", 64), change.get("dtype", jnp.bfloat16)
    q = jax.ShapeDtypeStruct((1, 8, 2, d), dtype)
    v = jax.ShapeDtypeStruct((1, 8, 2, d), change.get("v", dtype))
    mask = jax.ShapeDtypeStruct((1, 1, 1, 8), jnp.bool_) if "mask" in change else None
    bias = jax.ShapeDtypeStruct((1, 2, 8, 8), dtype) if "bias" in change else None
    spec = Spec(change.get("scale", 0.125), False, None)
    assert mosaic.unsupported(Operands(q, q, v, mask, bias), spec) == reason
