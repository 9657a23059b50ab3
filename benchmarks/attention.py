"""Attention and its tangent: time, error and memory of this package's kernels and of their peers.

    python benchmarks/attention.py --out benchmarks/results/attention-gpu.json

Forward, forward with tangent fused, the same in two passes, backward, and the training attention
(the gradient of sCM's loss) of `scmkit.attention` by each kernel, against plain XLA, cuDNN (which
has no forward mode: the speed of light of the plain part), and where PyTorch with CUDA is to be
had its own attention (no forward mode either), jvp_flash_attention (`pip install
jvp_flash_attention`) and rCM's Triton kernel (`--rcm`, a checkout of NVlabs/rcm). Times are medians
on the device with cold inputs, errors are relative root mean squares against float64, the floor is
arithmetic or memory, whichever is longer. A contestant that cannot run is a row with its reason.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# The peers' processes need room on the same device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import attention_jax
import attention_timing
import attention_torch
import jax
import numpy as np
from attention_problem import (
    DEVICES,
    INPUTS,
    OPS,
    UNKNOWN_CACHE,
    Case,
    Device,
    Op,
    errors,
    floor_ms,
    flops,
    reference,
)
from common import write

Row = dict[str, Any]
Results = dict[str, np.ndarray]

TORCH = Path(__file__).with_name("attention_torch.py")


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cases(args: argparse.Namespace) -> list[Case]:
    causal = {"both": (False, True), "no": (False,), "yes": (True,)}[args.causal]
    return [
        Case(n, d, c, args.batch, args.heads, args.dtype, args.common)
        for n in args.lengths
        for d in args.head_dims
        for c in causal
    ]


def torch_peers(args: argparse.Namespace) -> tuple[dict[str, str | None], dict[str, str]]:
    """For each PyTorch peer why it cannot run, or None; and the versions behind them."""
    command = [args.torch_python, str(TORCH), "--probe", *_rcm(args)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout)
        found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, IndexError, ValueError, subprocess.TimeoutExpired):
        return dict.fromkeys(attention_torch.PEERS, f"{args.torch_python} has no torch"), {}
    return found["unavailable"], found["versions"]


def in_torch(
    args: argparse.Namespace, peer: str, case: Case, cache: int
) -> Iterator[tuple[Row, Results]]:
    """Rows of one PyTorch peer, measured in a process of its own."""
    sets = attention_timing.copies(len(INPUTS) * case.array_bytes, cache)
    with TemporaryDirectory() as folder:
        kept = Path(folder) / "results.npz"
        command = [args.torch_python, str(TORCH), "--peer", peer, "--results", str(kept)]
        command += ["--case", json.dumps(asdict(case)), "--sets", str(sets)]
        command += ["--repeat", str(args.repeat), "--ops", *args.ops, *_rcm(args)]
        failure = "its process ended early"
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout)
            output, failure = done.stdout, (done.stderr.strip().splitlines() or [failure])[-1]
        except subprocess.TimeoutExpired as e:
            output, failure = e.stdout or "", f"no answer in {args.timeout} s"
        lines = output.decode() if isinstance(output, bytes) else output
        rows = {row["op"]: row for row in map(json.loads, lines.splitlines())}
        results = dict(np.load(kept)) if kept.exists() else {}
        for op in args.ops:
            row = rows.get(op, {"op": op, "reason": failure[:120]})
            here = {
                n.removeprefix(f"{op}/"): a for n, a in results.items() if n.startswith(f"{op}/")
            }
            yield {"contestant": peer, "ours": False, **row}, here


def in_jax(
    args: argparse.Namespace, name: str, op: Op, case: Case, cache: int
) -> tuple[Row, Results]:
    """One operation of one JAX contestant."""
    row: Row = {"contestant": name, "ours": name not in attention_jax.PEERS, "op": op}
    try:
        found = attention_jax.run(name, case, op, cache, args.repeat)
    except Exception as e:  # whatever keeps a contestant from running is its row
        return row | {"reason": attention_jax.reason(e)}, {}
    finally:
        attention_jax.release()
    timing = found.timing
    row |= {"ms": timing.median, "min": timing.low, "max": timing.high, "timer": timing.timer}
    return row | {"temp_mib": found.temp_bytes / 2**20}, found.results


def judged(
    row: Row, case: Case, device: Device | None, results: Results, exact: Results | None
) -> Row:
    """A row with what follows from its time and, where the exact ones are known, its results."""
    row = asdict(case) | row
    if "ms" not in row:
        return row
    row["errors"] = {} if exact is None else errors(results, exact)
    row["tflops"] = flops(case, row["op"]) / (1e9 * row["ms"])
    if device is not None and case.dtype != "float32":
        row["floor_percent"] = 100 * floor_ms(case, row["op"], device) / row["ms"]
    return row


def compare(rows: list[Row]) -> None:
    """Write into each row how many times faster it is than the best peer at the same operation."""
    for op in OPS:
        timed = [row for row in rows if row["op"] == op and "ms" in row]
        best = min((row for row in timed if not row["ours"]), key=lambda r: r["ms"], default=None)
        if best is None:
            continue
        for row in timed:
            row["best_peer"] = best["contestant"]
            row["speedup"] = best["ms"] / row["ms"]


def table(rows: list[Row]) -> None:
    """Print one case."""
    print(
        f"{'operation':<11} {'contestant':<20} {'ms':>9} {'TFLOP/s':>8} {'% floor':>8} "
        f"{'x peer':>7} {'temp MiB':>9}  relative RMS error"
    )
    for op in OPS:
        for row in (row for row in rows if row["op"] == op and "ms" in row):
            floor, speedup = row.get("floor_percent"), row.get("speedup")
            print(
                f"{op:<11} {row['contestant']:<20} {row['ms']:9.4f} {row['tflops']:8.1f} "
                f"{'-' if floor is None else format(floor, '.1f'):>8} "
                f"{'-' if speedup is None else format(speedup, '.2f'):>7} "
                f"{row['temp_mib']:9.1f}  "
                + ", ".join(f"{name} {error:.1e}" for name, error in row["errors"].items())
            )
    missing: dict[tuple[str, str], list[str]] = {}
    for row in (row for row in rows if "ms" not in row):
        missing.setdefault((row["contestant"], row["reason"]), []).append(row["op"])
    for (name, why), ops in missing.items():
        print(f"no {name} ({'any' if len(ops) > 3 else ', '.join(ops)}): {why}")


def _rcm(args: argparse.Namespace) -> list[str]:
    return [] if args.rcm is None else ["--rcm", str(args.rcm)]


def parser() -> argparse.ArgumentParser:
    """What can be asked for; the defaults are the whole of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lengths", type=int, nargs="*", default=[256, 1024, 4096])
    parser.add_argument("--head-dims", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--causal", choices=("both", "no", "yes"), default="both")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument(
        "--common", type=float, default=0.0, help="common part of the keys' tangents, noise being 1"
    )
    parser.add_argument("--ops", nargs="*", choices=OPS, default=list(OPS))
    parser.add_argument("--implementations", nargs="*", default=["mosaic", "triton", "xla"])
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--rcm", type=Path, help="a checkout of NVlabs/rcm")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for a PyTorch process")
    parser.add_argument("--out", type=Path)
    return parser


def main() -> None:
    args = parser().parse_args()
    kind = jax.devices()[0].device_kind
    device = DEVICES.get(kind)
    cache = device.cache if device else UNKNOWN_CACHE
    unavailable, versions = torch_peers(args)
    measured: dict[Case, list[tuple[Row, Results]]] = {case: [] for case in cases(args)}
    # PyTorch first: JAX keeps what device memory it once took.
    for case, found in measured.items():
        for peer, why in unavailable.items():
            if why is None:
                progress(f"{case}: {peer}")
                found += in_torch(args, peer, case, cache)
            else:
                row = {"contestant": peer, "ours": False, "reason": why}
                found += [(row | {"op": op}, {}) for op in args.ops]
    rows: list[Row] = []
    for case, found in measured.items():
        for name in attention_jax.names(args.implementations):
            for op in args.ops:
                progress(f"{case}: {name}, {op}")
                found.append(in_jax(args, name, op, case, cache))
        progress(f"{case}: float64")
        exact = reference(case)
        here = [judged(row, case, device, results, exact[row["op"]]) for row, results in found]
        compare(here)
        rows += here
        print(f"\n{case}; {kind}")
        table(here)
    write(args.out, {"rows": rows, "versions": versions})


if __name__ == "__main__":
    main()
