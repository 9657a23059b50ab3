"""Stage b: every kernel of one backend against float64, at sizes small and real."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import attention_jax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from attention_problem import Case, Op, errors, reference
from jaxtyping import Array
from scmkit_attention import dense
from scmkit_attention.problem import Differentials, Operands, Spec

from gpu_stages.worker import Context, Row, reason

BOUNDS = {"bfloat16": 5e-3, "float16": 8e-4, "float32": 2e-5}
"""Relative root-mean-square error of a right kernel, about twice what the interpreted ones have."""

COMMON = 30.0
"""Size of a part that all keys' tangents have in common; the noise has size 1."""


class Small(NamedTuple):
    """Samples, queries, keys, heads, key heads, head_dim; whether causal, masked; dtype."""

    b: int
    n: int
    m: int
    h: int
    g: int
    d: int
    causal: bool
    masked: bool = False
    dtype: str = "bfloat16"

    def __str__(self) -> str:
        mode = ("causal" if self.causal else "full") + (", masked" if self.masked else "")
        return f"{self.n}x{self.m}, {self.h}/{self.g} heads of {self.d}, {mode}, {self.dtype}"


SMALL = {
    "mosaic": [
        Small(1, 70, 300, 1, 1, 64, False),
        Small(2, 150, 90, 4, 2, 64, True),
        Small(1, 64, 200, 2, 1, 128, True),
        Small(2, 256, 256, 2, 2, 128, False),
        Small(1, 70, 100, 2, 1, 40, True, dtype="float16"),
    ],
    "triton": [
        Small(1, 70, 300, 1, 1, 64, False),
        Small(2, 150, 90, 4, 2, 64, True),
        Small(1, 64, 200, 2, 1, 128, True, masked=True),
        Small(2, 256, 256, 2, 2, 128, False),
        Small(1, 70, 100, 2, 1, 40, True, dtype="float32"),
        Small(1, 130, 130, 1, 1, 256, False),
    ],
}
"""Ragged lengths, rings used again, shared and padded heads, rows that see nothing."""


def small(context: Context, backend: str) -> Iterator[Row]:
    """Forward, dual and backward kernel at awkward sizes; each is compiled apart, so that one may fail."""
    if context.rehearse and backend == "mosaic" and jax.__version_info__ < (0, 11):
        yield {
            "line": f"mosaic: its interpreter needs jax 0.11 or newer, this is {jax.__version__}"
        }
        return
    module: Any = importlib.import_module(f"scmkit_attention.{backend}")
    interpreted = {"interpret": True} if context.rehearse else {}
    wrong: list[str] = []
    for case in SMALL[backend][: 1 if context.rehearse else None]:
        spec = Spec(case.d**-0.5, case.causal, None)
        x, t, do = problem(case)
        shared = COMMON * jr.normal(jr.key(8), (1, 1, case.g, case.d))
        moved = t._replace(k=(t.k.astype(jnp.float32) + shared).astype(t.k.dtype))
        calls = {n: jax.jit(c) for n, c in programs(module, spec, interpreted).items()}
        for common, tangents in ((0.0, t), (COMMON, moved)):
            exact = float64(x, tangents, do, spec)
            given = {
                "forward": (x,),
                "dual": (x, tangents),
                "backward": (x, exact["o"].astype(x.q.dtype), np.float32(exact["lse"]), do),
            }
            for kernel in given if not common else ("dual",):
                row = {"backend": backend, "case": str(case), "kernel": kernel, "common": common}
                row |= checked(partial(calls[kernel], *given[kernel]), exact, case.dtype)
                wrong += [f"{kernel}, {case}"] * (not row["right"])
                yield row
    yield verdict(f"{backend}, small", wrong)


def real(context: Context, backend: str) -> Iterator[Row]:
    """Forward, forward with tangent, and training attention at sizes of real networks.

    Without a common mode they are compared where they are timed, in stage c, save one here.
    """
    wrong: list[str] = []
    n, batch, heads = (64, 1, 2) if context.rehearse else (1024, 4, 16)
    commons: list[tuple[int, bool, float]] = [(64, False, 0.0), (64, False, COMMON)]
    commons += [(128, False, COMMON), (64, True, COMMON), (128, True, COMMON)]
    ops: tuple[Op, ...] = ("forward", "fused", "training")
    for d, causal, common in commons[: 1 if context.rehearse else None]:
        case = Case(n, d, causal, batch, heads, "bfloat16", common)
        exact = reference(case)
        for op in ops:
            row = {"backend": backend, "case": str(case), "kernel": op, "common": common}
            row |= checked(partial(measured, backend, case, op, context), exact[op], case.dtype)
            wrong += [f"{op}, {case}"] * (not row["right"])
            yield row
    yield verdict(f"{backend}, real", wrong)


def measured(backend: str, case: Case, op: Op, context: Context) -> dict[str, np.ndarray]:
    """What a backend's attention gives for the checked heads; by XLA in a rehearsal."""
    name = f"scmkit-{'xla' if context.rehearse else backend}"
    return attention_jax.run(name, case, op, 0, 1).results


def checked(call: Callable[[], Any], exact: dict[str, np.ndarray], dtype: str) -> Row:
    """Errors of what a call gives by name, and whether they are as small as rounding makes them."""
    try:
        found = {name: np.asarray(a).astype(np.float64) for name, a in call().items()}
    except Exception as error:
        return {"right": False, "reason": reason(error)}
    finite = {name: _finite(found[name], exact[name]) for name in found}
    off = errors({n: f for n, (f, _) in finite.items()}, {n: e for n, (_, e) in finite.items()})
    # A comparison with NaN is false.
    return {"right": all(e <= BOUNDS[dtype] for e in off.values()), "errors": off}


def _finite(found: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without what is infinite in both: the log-sum-exp of a row that sees nothing."""
    same = ~np.isfinite(exact) & (found == exact)
    return np.where(same, 0, found), np.where(same, 0, exact)


def verdict(what: str, wrong: list[str]) -> Row:
    """The last row of a part; raises where anything was wrong, so that the part counts as failed."""
    if wrong:
        raise ArithmeticError(f"{len(wrong)} wrong or failed: {'; '.join(wrong)}")
    return {"line": f"{what}: all right"}


def problem(case: Small) -> tuple[Operands, Differentials, Array]:
    """Operands, tangents and a cotangent of normal noise."""
    shapes = [(case.b, case.n, case.h, case.d), *[(case.b, case.m, case.g, case.d)] * 2]
    dtype = jnp.dtype(case.dtype)
    a = [jr.normal(jr.key(i), s, jnp.float32).astype(dtype) for i, s in enumerate([*shapes] * 2)]
    do = jr.normal(jr.key(6), shapes[0], jnp.float32).astype(dtype)
    mask = jr.bernoulli(jr.key(7), 0.6, (case.b, 1, 1, case.m)) if case.masked else None
    return Operands(a[0], a[1], a[2], mask), Differentials(*a[3:]), do


def programs(
    module: Any, spec: Spec, options: dict[str, bool]
) -> dict[str, Callable[..., dict[str, Array]]]:
    """The kernels as functions that name their results."""

    def backward(x: Operands, o: Array, lse: Array, do: Array) -> dict[str, Array]:
        found = module.backward(x, o, lse, do, spec, **options)
        return dict(zip(("dq", "dk", "dv"), found[:3], strict=True))

    return {
        "forward": lambda x: _named(module.forward(x, spec, **options)),
        "dual": lambda x, t: _named(module.dual(x, t, spec, **options)),
        "backward": backward,
    }


def _named(results: tuple[Array, ...]) -> dict[str, Array]:
    return dict(zip(("o", "lse", "to"), results, strict=False))


def float64(x: Operands, t: Differentials, do: Array, spec: Spec) -> dict[str, np.ndarray]:
    """What the kernels should give, by the definition, in float64 on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        host = jax.tree.map(np.asarray, (x, t, do))
        wide = jax.tree.map(lambda a: a if a.dtype == bool else a.astype(np.float64), host)

        def everything(x: Operands, t: Differentials, do: Array) -> dict[str, Array]:
            o, lse, to = dense.dual(x, t, spec)
            dq, dk, dv, _ = dense.backward(x, o, lse, do, spec)
            return {"o": o, "lse": lse, "to": to, "dq": dq, "dk": dk, "dv": dv}

        return jax.tree.map(np.asarray, jax.jit(everything)(*wide))
