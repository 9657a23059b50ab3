"""Attention as the benchmarks pose it: inputs, float64 results, what it must cost. NumPy alone.

Every head is a copy of one of two, so that the reference stays small, and the first and the last
head of a contestant's output are compared with it.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Op = Literal["forward", "fused", "two passes", "backward", "training"]
OPS: tuple[Op, ...] = ("forward", "fused", "two passes", "backward", "training")
"""Forward; forward with its tangent; forward, then forward with tangent for the tangent alone;
backward from given residuals; the gradient of sCM's loss, whose tangent is held fixed."""

INPUTS = ("q", "k", "v", "tq", "tk", "tv", "do")
RESULTS: dict[Op, tuple[str, ...]] = {
    "forward": ("o",),
    "fused": ("o", "to"),
    "two passes": ("o", "to"),
    "backward": ("dq", "dk", "dv"),
    "training": ("dq", "dk", "dv"),
}
"""What each operation returns, by name."""


@dataclass(frozen=True)
class Case:
    """One problem: shapes, dtype, and the common part of its tangents."""

    length: int
    head_dim: int
    causal: bool
    batch: int
    heads: int
    dtype: str
    common: float
    """Size of a vector added to every key's tangent, as a time embedding's tangent is; the noise
    has size 1. The exact tangent does not depend on it."""

    def __str__(self) -> str:
        mode = "causal" if self.causal else "full"
        common = f", common mode {self.common:g}" if self.common else ""
        return (
            f"N {self.length}, head_dim {self.head_dim}, {mode}, {self.dtype}, "
            f"{self.batch} x {self.heads} heads{common}"
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.length, self.heads, self.head_dim

    @property
    def array_bytes(self) -> int:
        return math.prod(self.shape) * (4 if self.dtype == "float32" else 2)


@dataclass(frozen=True)
class Device:
    """What a device attains at best, in practice: about 80 and 90 percent of its data sheet."""

    tflops: float
    """bfloat16 with float32 sums, in TFLOP/s."""
    bandwidth: float
    """In TB/s."""
    cache: int
    """Bytes of L2."""


DEVICES = {
    "NVIDIA H100 80GB HBM3": Device(790, 3.0, 50 << 20),
    "NVIDIA H200": Device(790, 4.3, 50 << 20),
    "NVIDIA A100-SXM4-80GB": Device(250, 1.8, 40 << 20),
}
"""By the name that the driver gives; others get no percent of the floor."""

UNKNOWN_CACHE = 64 << 20
"""Bytes of L2 of other devices, or more."""

PASSES: dict[Op, tuple[Op, ...]] = {"training": ("fused", "backward")}
PRODUCTS: dict[Op, int] = {"forward": 4, "fused": 12, "two passes": 14, "backward": 10}
"""Floating-point operations per `N² D` and head: two for each of the matrix products needed. Two
passes need 14, a tangent that reuses the log-sum-exp; a contestant may do more."""
TRAFFIC: dict[Op, int] = {"forward": 4, "fused": 8, "two passes": 12, "backward": 8}
"""Arrays of `N D` values per head that must be read or written."""


def flops(case: Case, op: Op) -> float:
    """Floating-point operations needed; causal attention needs half."""
    pairs = case.length**2 * (0.5 if case.causal else 1.0)
    count = sum(PRODUCTS[part] for part in PASSES.get(op, (op,)))
    return count * pairs * case.head_dim * case.batch * case.heads


def floor_ms(case: Case, op: Op, device: Device) -> float:
    """Milliseconds below which a device cannot go: arithmetic or memory, whichever is longer."""
    return 1e3 * sum(
        max(
            flops(case, part) / (device.tflops * 1e12),
            TRAFFIC[part] * case.array_bytes / (device.bandwidth * 1e12),
        )
        for part in PASSES.get(op, (op,))
    )


def inputs(case: Case, names: tuple[str, ...] = INPUTS) -> dict[str, np.ndarray]:
    """Inputs `b n h d` by name, as float32 whose values `case.dtype` holds exactly."""
    of = sources(case)
    return {name: _spread(case, of[name]) for name in names}


def checked(array: Any) -> np.ndarray:
    """The first and the last head of `b n h d`, as `2 n d`; of a device's array they alone are fetched."""
    return np.stack([np.asarray(array[0, :, 0]), np.asarray(array[-1, :, -1])])


def reference(case: Case) -> dict[Op, dict[str, np.ndarray]]:
    """float64 results of each operation for the `checked` heads."""
    last = (case.heads - 1) % 2
    heads = [_head(case, {n: a[i] for n, a in sources(case).items()}) for i in (0, last)]
    return {
        op: {name: np.stack([head[op][name] for head in heads]) for name in RESULTS[op]}
        for op in OPS
    }


def errors(results: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Root-mean-square error of each result, relative to the expected one's root mean square."""
    return {
        name: float(
            np.sqrt(np.mean((results[name].astype(np.float64) - exact) ** 2) / np.mean(exact**2))
        )
        for name, exact in expected.items()
    }


@functools.lru_cache(maxsize=1)
def sources(case: Case) -> dict[str, np.ndarray]:
    """Two different heads of every input, `2 n d`, which all heads are copies of in turn."""
    rng = np.random.default_rng(0)
    shape = (2, case.length, case.head_dim)
    made = {name: rng.standard_normal(shape, np.float32) for name in INPUTS}
    made["tk"] += case.common * rng.standard_normal((2, 1, case.head_dim), np.float32)
    return {name: _rounded(a, case.dtype) for name, a in made.items()}


def _spread(case: Case, source: np.ndarray) -> np.ndarray:
    one = np.stack([source[i % 2] for i in range(case.heads)], axis=1)
    return np.ascontiguousarray(np.broadcast_to(one, case.shape))


def _rounded(a: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16":
        return a.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":  # to nearest, ties to even; NumPy has no such dtype
        bits = a.view(np.uint32)
        bits = (bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    return a


def _head(case: Case, x: dict[str, np.ndarray]) -> dict[Op, dict[str, np.ndarray]]:
    """All results of one head, by blocks of queries: `N²` scores would not fit."""
    x = {name: a.astype(np.float64) for name, a in x.items()}
    o, to = np.empty_like(x["q"]), np.empty_like(x["q"])
    for rows, p in _weights(case, x):
        ts = (x["tq"][rows] @ x["k"].T + x["q"][rows] @ x["tk"].T) * case.head_dim**-0.5
        o[rows] = p @ x["v"]
        to[rows] = (p * (ts - np.sum(p * ts, -1, keepdims=True))) @ x["v"] + p @ x["tv"]
    primal = {"o": o, "to": to}
    # The gradient of mean((F - sg(F) + sg(dF))²) is that of F for the cotangent 2 dF / size.
    held = 2 * to / math.prod(case.shape)
    return {
        "forward": {"o": o},
        "fused": primal,
        "two passes": primal,
        "backward": _pulled(case, x, o, x["do"]),
        "training": _pulled(case, x, o, held),
    }


def _pulled(
    case: Case, x: dict[str, np.ndarray], o: np.ndarray, do: np.ndarray
) -> dict[str, np.ndarray]:
    scale = case.head_dim**-0.5
    dq, dk, dv = (np.zeros_like(o) for _ in range(3))
    for rows, p in _weights(case, x):
        ds = p * (do[rows] @ x["v"].T - np.sum(do[rows] * o[rows], -1, keepdims=True))
        dq[rows] = scale * ds @ x["k"]
        dk += scale * ds.T @ x["q"][rows]
        dv += p.T @ do[rows]
    return {"dq": dq, "dk": dk, "dv": dv}


def _weights(case: Case, x: dict[str, np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
    """The softmax of each block of queries."""
    n, size = case.length, 1024
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        s: Any = x["q"][rows] @ x["k"].T * case.head_dim**-0.5
        if case.causal:
            s = np.where(np.arange(n)[None] <= np.arange(n)[rows, None], s, -np.inf)
        e = np.exp(s - s.max(-1, keepdims=True))
        yield rows, e / e.sum(-1, keepdims=True)
