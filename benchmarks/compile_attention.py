"""The attention kernels as compiled for an H100, on a machine that has none.

For each kernel of each backend its registers, spills and shared memory; and for the training
attention (the gradient of sCM's loss) its kernel calls, its temporary memory, and what it gathers
when the batch is shared out over two devices.

    JAX=$(python -c 'import jax; print(jax.__version__)')
    pip install --no-deps "jax-cuda13-plugin==$JAX" "jax-cuda13-pjrt==$JAX" \\
        nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt
    python benchmarks/compile_attention.py --check
"""

# First: it sets what jax reads when it is imported.
import deviceless  # isort: skip

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from attention_jax import PEERS, training_gradient
from common import write
from scmkit_attention.problem import Differentials, Operands, Spec

import scmkit

Row = dict[str, Any]

CONFIGURATIONS = {
    "mosaic": [("bfloat16", 64), ("bfloat16", 128)],
    "triton": [
        ("bfloat16", 32),
        ("bfloat16", 64),
        ("bfloat16", 128),
        ("bfloat16", 256),
        ("float32", 64),
    ],
}
"""Dtypes and head dimensions of each backend that are compiled."""

CHECKED = ("bfloat16", 64), ("bfloat16", 128)
"""Dtypes and head dimensions in which no kernel of either backend may spill."""

BATCH, HEADS = 4, 16


def kernel_programs(backend: Any, spec: Spec) -> dict[str, Callable[..., Any]]:
    """One program for each kernel, of q, k, v, their tangents, and the output's cotangent."""

    def backward(q: Any, k: Any, v: Any, o: Any, lse: Any, do: Any) -> Differentials:
        return backend.backward(Operands(q, k, v), o, lse, do, spec)

    # What a program does not return, XLA drops, kernels included.
    return {
        "forward": lambda q, k, v, *_: backend.forward(Operands(q, k, v), spec),
        "dual": lambda q, k, v, tq, tk, tv, *_: backend.dual(
            Operands(q, k, v), Differentials(tq, tk, tv), spec
        ),
        "dq": lambda q, k, v, o, do, _, lse: backward(q, k, v, o, lse, do).q,
        "dkv": lambda q, k, v, o, do, _, lse: backward(q, k, v, o, lse, do)[1:3],
    }


def kernels(name: str, length: int, mesh: Any) -> list[Row]:
    """A row for each kernel of a backend."""
    rows: list[Row] = []
    for dtype, head_dim in CONFIGURATIONS[name]:
        for causal in (False, True):
            row: Row = {"backend": name, "dtype": dtype, "head_dim": head_dim, "causal": causal}
            try:
                rows += [row | found for found in _kernels(name, row, length, mesh)]
            except Exception as e:
                rows.append(row | {"kernel": "-", "reason": _first_line(e)})
            _progress(f"{name}, {dtype}, head_dim {head_dim}, causal {causal}")
    return rows


def _kernels(name: str, row: Row, length: int, mesh: Any) -> list[Row]:
    backend = importlib.import_module(f"scmkit_attention.{name}")
    spec = Spec(row["head_dim"] ** -0.5, row["causal"], name)  # pyright: ignore[reportArgumentType]
    a: Any = jax.ShapeDtypeStruct((BATCH, length, HEADS, row["head_dim"]), jnp.dtype(row["dtype"]))
    lse = jax.ShapeDtypeStruct((BATCH, HEADS, length), jnp.float32)
    reason = backend.unsupported(Operands(a, a, a), spec)
    if reason is not None:
        return [{"kernel": "-", "reason": f"does not support {reason}"}]
    rows: list[Row] = []
    for kernel, program in kernel_programs(backend, spec).items():
        try:
            compiled = deviceless.compiled(program, a, a, a, a, a, a, lse, mesh=mesh)
        except Exception as e:
            rows.append({"kernel": kernel, "reason": _first_line(e)})
            continue
        calls = compiled.calls()
        found = {
            called: used
            for called, used in compiled.kernels.items()
            if any(called.startswith(call) for call in calls)
        }
        if not found:
            rows.append({"kernel": kernel, "reason": f"ptxas reported none of {calls}"})
        rows += [{"kernel": kernel, "name": n} | asdict(used) for n, used in found.items()]
    return rows


def attentions() -> dict[str, Callable[[bool], Callable[..., Any]]]:
    """By contestant, its attention with and without the causal mask."""

    def ours(name: Any) -> Callable[[bool], Callable[..., Any]]:
        return lambda causal: (
            lambda q, k, v: scmkit.attention(q, k, v, causal=causal, implementation=name)
        )

    def plain(causal: bool) -> Callable[..., Any]:
        return lambda q, k, v: jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation="xla"
        )

    return {f"scmkit-{n}": ours(n) for n in ("mosaic", "triton", "xla")} | {PEERS[0]: plain}


def training(lengths: list[int], head_dim: int, one: Any, two: Any) -> list[Row]:
    """A row for each contestant's training attention: kernel calls, memory, all-gathers."""
    rows: list[Row] = []
    for name, attention in attentions().items():
        for causal in (False, True):
            row: Row = {"contestant": name, "head_dim": head_dim, "causal": causal}
            program = partial(training_gradient, attention(causal))
            for n in lengths:
                a = jax.ShapeDtypeStruct((BATCH, n, HEADS, head_dim), jnp.bfloat16)
                try:
                    compiled = deviceless.compiled(program, *[a] * 6, mesh=one)
                    row.setdefault("calls", compiled.calls())
                    row[f"temp_mib_{n}"] = compiled.temp_bytes / 2**20
                    if n == min(lengths):
                        sharded = deviceless.compiled(program, *[a] * 6, mesh=two)
                        row["gathers"] = sharded.gathers()
                except Exception as e:
                    row["reason"] = _first_line(e)
            rows.append(row)
            _progress(f"training attention, {name}, causal {causal}")
    return rows


def print_kernels(rows: list[Row]) -> None:
    print(
        f"{'backend':<8} {'dtype':<9} {'head_dim':>8} {'causal':<7} {'kernel':<8} {'registers':>9} "
        f"{'spill B':>8} {'stack B':>8} {'shared B':>9}"
    )
    for r in rows:
        head = f"{r['backend']:<8} {r['dtype']:<9} {r['head_dim']:>8} {r['causal']!s:<7}"
        if "reason" in r:
            print(f"{head} {r['kernel']:<8} {r['reason']}")
            continue
        shared = "-" if r["dynamic_shared"] is None else r["static_shared"] + r["dynamic_shared"]
        print(
            f"{head} {r['kernel']:<8} {r['registers']:>9} {r['spill_bytes']:>8} "
            f"{r['stack_bytes']:>8} {shared:>9}"
        )


def print_training(rows: list[Row], lengths: list[int]) -> None:
    columns = " ".join(f"{f'MiB at {n}':>12}" for n in lengths)
    print(f"\n{'training attention':<18} {'causal':<7} {columns} {'all-gathers':>12}  kernel calls")
    for r in rows:
        sizes = " ".join(f"{_or_dash(r.get(f'temp_mib_{n}'), '.1f'):>12}" for n in lengths)
        print(
            f"{r['contestant']:<18} {r['causal']!s:<7} {sizes} {_or_dash(r.get('gathers'), 'd'):>12}"
            f"  {r.get('calls') or '-'} {r.get('reason', '')}"
        )


def failures(rows: list[Row]) -> list[str]:
    """What `--check` holds against the kernels: in each of `CHECKED` they compile, and none spills."""
    wrong = []
    for r in (r for r in rows if (r["dtype"], r["head_dim"]) in CHECKED):
        what = (
            f"{r['backend']} {r['kernel']}, {r['dtype']}, head_dim {r['head_dim']}, "
            f"causal {r['causal']}"
        )
        if "reason" in r:
            wrong.append(f"{what}: {r['reason']}")
        elif r["spill_bytes"]:
            wrong.append(f"{what}: spills {r['spill_bytes']} bytes")
    return wrong


def _or_dash(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backends", nargs="*", choices=CONFIGURATIONS, default=[*CONFIGURATIONS])
    parser.add_argument("--lengths", type=int, nargs="*", default=[1024, 4096])
    parser.add_argument("--head-dim", type=int, default=64, help="of the training attention")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a bfloat16 kernel at 64 or 128 spills"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    one, two = deviceless.mesh(1), deviceless.mesh(2)
    print(f"jax {jax.__version__}, ptxas {deviceless.ptxas()}")
    rows = [row for name in args.backends for row in kernels(name, min(args.lengths), one)]
    print_kernels(rows)
    results = {"ptxas": deviceless.ptxas(), "kernels": rows}
    write(args.out, results)
    whole = training(args.lengths, args.head_dim, one, two)
    print_training(whole, args.lengths)
    wrong = failures(rows) if args.check else []
    print("".join(f"\n{line}" for line in wrong))
    write(args.out, results | {"training": whole})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
