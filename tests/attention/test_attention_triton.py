"""Pallas-Triton kernels of attention, interpreted, against float64; and that they lower for CUDA."""

import functools
import inspect
import re
import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from scmkit_attention import backends, triton
from scmkit_attention.problem import Differentials, Operands, Spec

F32, BF16, F16 = jnp.float32, jnp.bfloat16, jnp.float16

SLOW = pytest.mark.slow
"""For sizes, masks and dtypes whose parts other cases have as well."""


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks so small that short sequences have several, of queries and keys in unequal number."""

    def blocks(name: str, width: int, dtype: jnp.dtype):
        return triton._Blocks(32, 16, 4) if name == "attention_dkv" else triton._Blocks(16, 32, 4)

    monkeypatch.setattr(triton, "_blocks", blocks)


def reference(x, t, do, spec):
    """Output, log-sum-exp, tangent and cotangents of (q, k, v) in numpy and float64."""
    (q, k, v), (tq, tk, tv) = (
        [np.asarray(a.astype(F32), np.float64) for a in y[:3]] for y in (x, t)
    )
    do = np.asarray(do.astype(F32), np.float64)
    (n, h), (m, g) = q.shape[1:3], k.shape[1:3]
    k, v, tk, tv = (np.repeat(a, h // g, axis=2) for a in (k, v, tk, tv))
    allowed = np.ones((1, 1, n, m), bool) if x.mask is None else np.asarray(x.mask)
    if spec.causal:
        allowed = allowed & (np.arange(m) <= np.arange(n)[:, None] + m - n)
    s = np.where(allowed, spec.scale * np.einsum("bnhd,bmhd->bhnm", q, k), -np.inf)
    with np.errstate(divide="ignore"):
        top = np.max(s, -1, keepdims=True)
        e = np.exp(s - np.where(top == -np.inf, 0, top))
        lse = np.log(e.sum(-1)) + top[..., 0]
    p = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
    ts = spec.scale * (np.einsum("bnhd,bmhd->bhnm", tq, k) + np.einsum("bnhd,bmhd->bhnm", q, tk))
    tp = p * (ts - np.sum(p * ts, -1, keepdims=True))
    o = np.einsum("bhnm,bmhd->bnhd", p, v)
    to = np.einsum("bhnm,bmhd->bnhd", tp, v) + np.einsum("bhnm,bmhd->bnhd", p, tv)
    dp = np.einsum("bnhd,bmhd->bhnm", do, v)
    ds = spec.scale * p * (dp - np.sum(p * dp, -1, keepdims=True))
    dq, dk = np.einsum("bhnm,bmhd->bnhd", ds, k), np.einsum("bhnm,bnhd->bmhd", ds, q)
    dv = np.einsum("bhnm,bnhd->bmhd", p, do)
    dk, dv = (a.reshape(*a.shape[:2], g, -1, a.shape[3]).sum(3) for a in (dk, dv))
    return {"o": o, "lse": lse, "to": to, "dq": dq, "dk": dk, "dv": dv}


def draw(b=2, n=40, m=56, h=2, g=2, d=16, dtype=F32, mask=None):
    """Operands, tangents and a cotangent; `mask` says which of its dimensions are full."""
    shapes = [(b, n, h, d), (b, m, g, d), (b, m, g, d)]
    arrays = [jr.normal(jr.key(i), s).astype(dtype) for i, s in enumerate([*shapes, *shapes])]
    do = jr.normal(jr.key(6), shapes[0]).astype(dtype)
    if mask is not None:
        shape = [size if full else 1 for size, full in zip((b, h, n, m), mask, strict=True)]
        mask = jr.bernoulli(jr.key(7), 0.6, shape)
    return Operands(*arrays[:3], mask), Differentials(*arrays[3:]), do


def kernels(x, t, do, spec):
    """What `reference` returns, from the kernels; the output once more from the forward kernel."""

    @jax.jit
    def run(x, t, do):
        o, lse = triton.forward(x, spec, interpret=True)
        o_dual, lse_dual, to = triton.dual(x, t, spec, interpret=True)
        dq, dk, dv, _ = triton.backward(x, o, lse, do, spec, interpret=True)
        found = {"o": o, "lse": lse, "to": to, "dq": dq, "dk": dk, "dv": dv}
        return found, {"o": o_dual, "lse": lse_dual}

    return run(x, t, do)


def relative_error(a, expected):
    """Root mean square of the error over that of what is expected."""
    finite = np.isfinite(expected)
    a = np.asarray(a.astype(F32), np.float64)
    np.testing.assert_array_equal(np.isfinite(a), finite)
    a, expected = a[finite], expected[finite]
    error = np.linalg.norm(a - expected)
    return error / np.linalg.norm(expected) if np.any(expected) else error


def check(x, t, do, spec, bound):
    expected = reference(x, t, do, spec)
    found, again = kernels(x, t, do, spec)
    for name, a in found.items():
        assert relative_error(a, expected[name]) < bound, name
    for name, a in again.items():
        assert relative_error(a, expected[name]) < bound, f"{name} of dual"
    assert found["lse"].dtype == F32
    assert {found[name].dtype for name in ("o", "to", "dq", "dk", "dv")} == {x.q.dtype}


@pytest.mark.parametrize(
    ("sizes", "causal"),
    [
        pytest.param({"n": 64, "m": 64}, False, marks=SLOW),
        ({"n": 40, "m": 56, "h": 4}, False),
        pytest.param({"n": 75, "m": 37, "g": 1, "d": 20}, False, marks=SLOW),
        ({"n": 64, "m": 64}, True),
        pytest.param({"n": 40, "m": 56, "h": 4}, True, marks=SLOW),
        ({"n": 75, "m": 37, "g": 1, "d": 20}, True),
        ({"n": 1, "m": 1, "d": 1}, True),
    ],
    ids=str,
)
def test_sizes(small_blocks, sizes, causal):
    check(*draw(**sizes), Spec(0.3, causal, None), 1e-6)


@pytest.mark.parametrize(
    "mask",
    ["1001", "0111", "1111", *(pytest.param(mask, marks=SLOW) for mask in ("1010", "0100"))],
)
def test_mask(small_blocks, mask):
    x = draw(n=40, m=56, h=4, mask=[int(c) for c in mask])
    check(*x, Spec(0.3, mask == "1111", None), 1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [(BF16, 4e-3), (F16, 6e-4), (F32, 1e-6)])
def test_dtype(dtype, bound):
    check(*draw(b=1, n=150, m=200, d=32, dtype=dtype), Spec(32**-0.5, True, None), bound)


def test_rows_that_see_nothing_are_zero(small_blocks):
    spec = Spec(0.3, False, None)
    x, t, do = draw()
    mask = jnp.ones((2, 1, 40, 56), bool).at[0, :, 3].set(False).at[1, :, 16:36].set(False)
    found, _ = kernels(x._replace(mask=mask), t, do, spec)
    blind = ~np.asarray(mask).any(-1)[:, 0]
    for name in ("o", "to", "dq"):
        assert np.all(np.asarray(found[name])[blind] == 0)
    assert np.all(np.asarray(found["lse"]).swapaxes(1, 2)[blind] == -np.inf)
    assert all(np.all(np.isfinite(found[name])) for name in ("dk", "dv"))


def test_overflow_of_masked_scores_does_not_spread(small_blocks):
    """A masked key's exponential overflows in the backward pass: it must not become NaN."""
    spec = Spec(1.0, False, None)
    x, t, do = draw(mask=[0, 0, 0, 1])
    k = jnp.where(x.mask[0, 0, 0][None, :, None, None], x.k, 1e4)
    check(x._replace(k=k), t, do, spec, 1e-6)


_dual = jax.jit(functools.partial(triton.dual, interpret=True), static_argnums=2)


@pytest.mark.parametrize("visible_from", [0, 40])
@pytest.mark.parametrize("common", [0.0, 3.0, 10.0, 30.0, 100.0])
def test_common_mode_of_tangents_costs_no_precision(small_blocks, common, visible_from):
    """The tangent of every key has the same large part, as a time embedding adds it.

    Also where a row sees its first key only in a later block.
    """
    spec = Spec(0.125, False, None)
    x, t, do = draw(b=1, n=64, m=128, d=64, dtype=BF16)
    tk = t.k.astype(F32) + common * jr.normal(jr.key(9), (1, 1, 2, 64))
    t = t._replace(k=tk.astype(BF16))
    x = x._replace(mask=jnp.arange(128)[None, None, None, :] >= visible_from)
    _, _, to = _dual(x, t, spec)
    assert relative_error(to, reference(x, t, do, spec)["to"]) < 4e-3


def test_int64_is_not_used(small_blocks):
    x, t, do = draw(h=4, mask=[1, 1, 1, 1])
    with jax.enable_x64(True):
        check(x, t, do, Spec(0.3, True, None), 1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"bias": jax.ShapeDtypeStruct((1, 1, 8, 8), F32)}, "additive bias"),
        ({"q": jax.ShapeDtypeStruct((2, 8, 4, 16), BF16)}, "operands of different dtypes"),
        ({"k": jax.ShapeDtypeStruct((2, 0, 2, 16), F32)}, "empty operands"),
        ({"q": jax.ShapeDtypeStruct((2**20, 2**7, 4, 16), F32)}, "2^31"),
        ({"mask": jax.ShapeDtypeStruct((1, 1, 2**16, 2**15), jnp.bool_)}, "2^31"),
    ],
)
def test_unsupported(change, reason):
    q, k = jax.ShapeDtypeStruct((2, 8, 4, 16), F32), jax.ShapeDtypeStruct((2, 8, 2, 16), F32)
    found = triton.unsupported(Operands(q, k, k)._replace(**change), Spec(1.0, False, None))
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("d", [0, 1, 80, 256, 257])
def test_supported_head_dims(d):
    q = jax.ShapeDtypeStruct((2, 8, 4, d), F32)
    found = triton.unsupported(Operands(q, q, q), Spec(1.0, False, None))
    assert (found is None) == (1 <= d <= 256)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.int32])
def test_unsupported_dtypes(dtype):
    with jax.enable_x64(True):
        q = jax.ShapeDtypeStruct((2, 8, 4, 16), dtype)
    found = triton.unsupported(Operands(q, q, q), Spec(1.0, False, None))
    assert found == jnp.dtype(dtype).name


def hopper():
    """A device to lower for; JAX before 0.11 asks for none."""
    takes = inspect.signature(AbstractDevice).parameters
    platform = {"platform": "gpu"} if "platform" in takes else {}
    device = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, **platform)
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


def lowered(f, *args):
    with hopper(), backends.deprecation_ignored():
        return jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    "dtype", [BF16, pytest.param(F32, marks=SLOW), pytest.param(F16, marks=SLOW)]
)
@pytest.mark.parametrize(
    ("d", "m", "causal", "mask"),
    [
        (64, 256, False, None),
        (16, 200, True, None),
        (80, 200, False, "1001"),
        (128, 300, True, "1111"),
        (256, 1, False, "0110"),
    ],
)
def test_lowering_for_cuda(d, m, causal, mask, dtype):
    x, t, do = jax.eval_shape(
        lambda: draw(n=200, m=m, h=6, d=d, dtype=dtype, mask=mask and [int(c) for c in mask])
    )
    lse, spec = jax.ShapeDtypeStruct((2, 6, 200), F32), Spec(1.0, causal, None)
    programs = {
        "attention_forward": lowered(lambda x: triton.forward(x, spec), x),
        "attention_dual": lowered(lambda x, t: triton.dual(x, t, spec), x, t),
        "attention_dq|attention_dkv": lowered(
            lambda x, o, lse, do: triton.backward(x, o, lse, do, spec), x, do, lse, do
        ),
    }
    for names, text in programs.items():
        assert set(re.findall(r'name = "(attention_\w+)"', text)) == set(names.split("|"))
        assert "transpose" not in text or "dq" in names


def test_only_the_deprecation_of_pallas_triton_is_ignored():
    with (
        warnings.catch_warnings(record=True, action="always") as caught,
        backends.deprecation_ignored(),
    ):
        for message in ("The Pallas Triton backend is deprecated", "other"):
            warnings.warn(message, DeprecationWarning, stacklevel=1)
    assert [str(w.message) for w in caught] == ["other"]
