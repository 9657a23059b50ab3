"""`scmkit.attention`: its values and tangents against float64, its arguments, and its backends."""

import json
import logging
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_attention import backends, blockwise, dense
from scmkit_attention.problem import Operands, Spec

from scmkit import attention


def reference(q, k, v, tq, tk, tv, *, allowed=None, bias=0.0, scale=None):
    """Output and tangent in float64; `allowed` and `bias` as `b h n m`."""
    q, k, v, tq, tk, tv = (np.asarray(a, np.float64) for a in (q, k, v, tq, tk, tv))
    ratio = q.shape[-2] // k.shape[-2]
    k, v, tk, tv = (np.repeat(a, ratio, axis=-2) for a in (k, v, tk, tv))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    s = scale * np.einsum("...nhd,...mhd->...hnm", q, k) + np.asarray(bias, np.float64)
    ts = np.einsum("...nhd,...mhd->...hnm", tq, k) + np.einsum("...nhd,...mhd->...hnm", q, tk)
    allowed = np.ones(s.shape, bool) if allowed is None else np.broadcast_to(allowed, s.shape)
    top = np.max(s, axis=-1, keepdims=True, where=allowed, initial=-1e30)
    e = np.where(allowed, np.exp(np.where(allowed, s - top, 0)), 0)
    total = e.sum(axis=-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    dp = p * scale * (ts - (p * ts).sum(axis=-1, keepdims=True))
    mix = "...hnm,...mhd->...nhd"
    return np.einsum(mix, p, v), np.einsum(mix, dp, v) + np.einsum(mix, p, tv)


def draw(getkey, *batch, n=21, m=21, heads=2, kv_heads=2, head_dim=8, dtype=jnp.float32):
    shapes = [(*batch, n, heads, head_dim), *[(*batch, m, kv_heads, head_dim)] * 2]
    return tuple(jr.normal(getkey(), shape).astype(dtype) for shape in shapes)


@pytest.fixture(params=["dense", "blockwise"])
def form(request):
    """Each of the two forms in XLA."""
    return request.param


@pytest.fixture(scope="module")
def traced():
    """The form with which what JAX keeps was traced: to drop it costs more than any test here."""
    kept = ["dense"]
    yield kept
    if kept != ["dense"]:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def blocks(request, traced, monkeypatch):
    """Where a test asks for the blockwise form, blocks small enough that there are many."""
    wanted = request.getfixturevalue("form") if "form" in request.fixturenames else "dense"
    if wanted == "blockwise":
        monkeypatch.setattr(dense, "LONGEST", 0)
        monkeypatch.setattr(blockwise, "BLOCK", 8)
    if traced != [wanted]:
        jax.clear_caches()
        traced[:] = [wanted]


SHAPES = [
    {"n": 16, "m": 16},
    {"n": 13, "m": 21},
    {"n": 21, "m": 9},
    {"n": 1, "m": 30},
    {"n": 3, "m": 0},
    {"heads": 6, "kv_heads": 2},
    {"head_dim": 3},
]


def run(primals, tangents, **options):
    return jax.jit(lambda p, t: jax.jvp(lambda *p: attention(*p, **options), p, t))(
        primals, tangents
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_tangent(shape, causal, form, getkey):
    primals, tangents = draw(getkey, 2, **shape), draw(getkey, 2, **shape)
    n, m = primals[0].shape[1], primals[1].shape[1]
    allowed = np.tri(n, m, m - n, dtype=bool) if causal else None
    expected = reference(*primals, *tangents, allowed=allowed)
    for found, exact in zip(run(primals, tangents, causal=causal), expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=3e-6)


MASKS = [(), (1, 1), (2, 1, 1), (2, 1, 21), (2, 2, 21), (1, 2, 1)]
BOTH = {(), (2, 2, 21)}
"""Masks that are tried with the causal one in every run of the tests; the others are with `-m slow`."""
ALIKE = {(1, 1), (2, 1, 1)}
"""Masks whose dimensions of one the others have as well: with `-m slow` alone."""


@pytest.mark.parametrize(
    ("shape", "causal"),
    [
        pytest.param(shape, False, marks=[pytest.mark.slow] if shape in ALIKE else [])
        for shape in MASKS
    ]
    + [
        pytest.param(shape, True, marks=[] if shape in BOTH else [pytest.mark.slow])
        for shape in MASKS
    ],
)
def test_masks(shape, causal, form, getkey):
    """Every broadcastable shape; rows in which nothing is allowed give zeros, never NaN."""
    primals, tangents = draw(getkey, 2, kv_heads=1), draw(getkey, 2, kv_heads=1)
    mask = jr.bernoulli(getkey(), 0.3, (*shape, 21))
    mask = mask.at[..., :9].set(False)
    allowed = np.asarray(mask) & (np.tri(21, dtype=bool) if causal else True)
    expected = reference(*primals, *tangents, allowed=allowed)
    for found, exact in zip(
        run(primals, tangents, causal=causal, mask=mask), expected, strict=True
    ):
        np.testing.assert_allclose(found, exact, atol=3e-6)
    assert not np.any(expected[0][:, :9]) or not causal


def test_gradients_of_masked_rows_are_zero(form, getkey):
    q, k, v = draw(getkey, 2)
    mask = jnp.ones((2, 1, 21, 21), bool).at[:, :, 4].set(False).at[..., 7].set(False)
    grads = jax.jit(jax.grad(lambda *a: jnp.sum(attention(*a, mask=mask) ** 2), (0, 1, 2)))(q, k, v)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in grads)
    assert not np.any(grads[0][:, 4])
    assert not np.any(grads[1][:, 7])
    assert not np.any(grads[2][:, 7])


@pytest.mark.parametrize("shape", [(21,), (2, 1, 21), (2, 2, 21, 21)])
def test_bias_and_scale(shape, getkey):
    primals, tangents = draw(getkey, 2), draw(getkey, 2)
    bias = 3 * jr.normal(getkey(), shape)
    expected = reference(*primals, *tangents, bias=bias, scale=0.7)
    for found, exact in zip(run(primals, tangents, bias=bias, scale=0.7), expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=5e-6)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_any_number_of_batch_dimensions(batch, getkey):
    primals, tangents = draw(getkey, *batch, n=5), draw(getkey, *batch, n=5)
    mask = jr.bernoulli(getkey(), 0.7, (*batch, 1, 1, 21))
    expected = reference(*primals, *tangents, allowed=mask)
    for found, exact in zip(run(primals, tangents, mask=mask), expected, strict=True):
        assert found.shape == primals[0].shape
        np.testing.assert_allclose(found, exact, atol=3e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_sums_in_float32(dtype, form, getkey):
    primals, tangents = draw(getkey, n=64, m=64, dtype=dtype), draw(getkey, n=64, m=64, dtype=dtype)
    eps = float(jnp.finfo(dtype).eps)
    expected = reference(*primals, *tangents)
    for found, exact in zip(run(primals, tangents), expected, strict=True):
        assert found.dtype == dtype
        error = np.sqrt(np.mean((np.asarray(found, np.float64) - exact) ** 2))
        assert error < eps * np.sqrt(np.mean(exact**2))


@pytest.mark.parametrize("common", [0, 3, 10, 30, 100])
def test_a_common_tangent_of_all_keys_costs_no_accuracy(common, form, getkey):
    """A time embedding moves every key alike, and a softmax does not see it."""
    primals = draw(getkey, n=64, m=64, head_dim=64, dtype=jnp.bfloat16)
    tq, tk, tv = draw(getkey, n=64, m=64, head_dim=64)
    tk = tk + common * jr.normal(getkey(), (1, 2, 64))
    tangents = tuple(a.astype(jnp.bfloat16) for a in (tq, tk, tv))
    found = np.asarray(run(primals, tangents)[1], np.float64)
    exact = reference(*primals, *tangents)[1]
    assert np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)) < 4e-3


def test_memory_grows_linearly_with_the_tokens():
    def temporaries(n):
        a = jax.ShapeDtypeStruct((n, 1, 16), jnp.float32)

        def loss(q, k, v):
            F, dF = jax.jvp(attention, (q, k, v), (q, k, v))
            return jnp.sum((F + jax.lax.stop_gradient(dF)) ** 2)

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(a, a, a).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8192) < 3 * temporaries(4096)
    assert temporaries(8192) < 0.25 * 8192**2 * 4  # a quarter of one matrix of scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (2, 21, 2, 4), "v": (2, 21, 2, 4)}, "head_dim should be the same"),
        ({"k": (2, 21, 3, 8), "v": (2, 21, 3, 8)}, "multiple"),
        ({"v": (2, 20, 2, 8)}, r"k and v alike"),
        ({"q": (3, 21, 2, 8)}, r"\(\*batch, tokens, heads, head_dim\)"),
        ({"q": (2, 8)}, r"\(\*batch, tokens, heads, head_dim\)"),
        ({"mask": (3, 21)}, r"mask has shape \(3, 21\), which does not broadcast"),
        ({"bias": (2, 2, 2, 21, 21)}, "bias has shape"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    shapes = {name: (2, 21, 2, 8) for name in "qkv"} | change
    arrays = {name: jnp.ones(shape) for name, shape in shapes.items()}
    if "mask" in arrays:
        arrays["mask"] = arrays["mask"] > 0
    q, k, v = (arrays.pop(name) for name in "qkv")
    with pytest.raises(ValueError, match=message):
        untyped(q, k, v, **arrays)


def test_mixed_dtypes_are_named():
    a = jnp.ones((4, 2, 8))
    with pytest.raises(ValueError, match=r"q is bfloat16, k float32.*cast them to one dtype"):
        untyped(a.astype(jnp.bfloat16), a, a)


# Users meet the function's own messages, not those of the run-time checker of this suite.
untyped = getattr(attention, "__wrapped__", attention)


class Kernel(types.ModuleType):
    def __init__(self, name, reason):
        super().__init__(name)
        self.reason = reason
        self.forward, self.dual, self.backward = dense.forward, dense.dual, dense.backward

    def unsupported(self, x, spec):
        return self.reason


@pytest.fixture
def choose(monkeypatch):
    """Which kernel is taken, with backends that support a call or not."""

    def chosen(implementation=None, *, hopper=True, mosaic=None, triton=None):
        kernels = {"mosaic": Kernel("mosaic", mosaic), "triton": Kernel("triton", triton)}
        monkeypatch.setattr(
            backends.importlib, "import_module", lambda name: kernels[name.rsplit(".", 1)[1]]
        )
        monkeypatch.setattr(backends, "_on_hopper", lambda: hopper)
        a = jnp.ones((1, 4, 1, 8))
        kernel = backends.cuda_kernel(Operands(a, a, a), Spec(1.0, False, implementation))
        return None if kernel is None else kernel.__name__

    backends._log_once.cache_clear()
    return chosen


def test_the_fastest_kernel_that_supports_the_call_is_taken(choose, caplog):
    with caplog.at_level(logging.WARNING):
        assert choose() == "mosaic"
        assert choose(hopper=False) == "triton"
        assert choose("triton") == "triton"
        assert choose("xla") is None
    assert not caplog.records


def test_a_fallback_is_said_once(choose, caplog):
    for _ in range(3):
        assert choose(mosaic="head_dim 40") == "triton"
        assert choose(mosaic="a bias", triton="a bias") is None
    assert [r.getMessage() for r in caplog.records] == [
        "attention: the mosaic kernel does not support head_dim 40; using the triton kernel",
        "attention: the mosaic kernel does not support a bias, the triton kernel does not support "
        "a bias; using XLA",
    ]


def test_a_kernel_asked_for_must_support_the_call(choose):
    with pytest.raises(ValueError, match=r"triton kernel does not support float64; leave out"):
        choose("triton", triton="float64")


@pytest.mark.parametrize(
    ("form", "kv_heads"),
    [("dense", 4), pytest.param("blockwise", 2, marks=pytest.mark.slow), ("kernel", 2)],
)
def test_sharded_arrays_are_not_gathered(form, kv_heads):
    """Under jit and shard_map, by samples and by heads, through XLA and through kernels."""
    program = Path(__file__).parents[1] / "support" / "sharded_attention.py"
    done = subprocess.run(
        [sys.executable, str(program), form, str(kv_heads)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 6
    for name, (error, gathers) in found.items():
        assert error < 1e-5, name
        assert gathers == 0, name
