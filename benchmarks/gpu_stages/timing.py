"""Stage c: attention timed in one case: by our kernels, XLA and cuDNN, or by what there is for PyTorch."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import attention
import jax
from attention_problem import DEVICES, OPS, UNKNOWN_CACHE, Case, Device, Op, reference

from gpu_stages.worker import Context, Row

TANGENTS: tuple[Op, ...] = ("fused", "training")
PLAIN: tuple[Op, ...] = ("forward", "backward")

CONTESTANTS: dict[str, dict[str, tuple[Op, ...]]] = {
    "Mosaic": {"scmkit-mosaic": (*TANGENTS, *PLAIN)},
    # cuDNN has no forward mode, and XLA's is what the kernels replace.
    "Triton, cuDNN, XLA": {
        "scmkit-triton": (*TANGENTS, *PLAIN),
        "jax-cudnn": PLAIN,
        "jax-xla": TANGENTS,
    },
}
"""What each is timed at."""

REHEARSED: dict[str, dict[str, tuple[Op, ...]]] = {
    "Mosaic": {"scmkit-xla": TANGENTS},
    "Triton, cuDNN, XLA": {"jax-xla": PLAIN, "jax-cudnn": ("forward",)},
}
"""The same where there is no GPU."""

LONGEST_COMPARED = 4096
"""Tokens up to which the float64 result is computed: on the host it takes quadratic time."""

LONGEST_DENSE = 4096
"""Tokens up to which XLA's attention, which keeps all scores, is asked for."""


def rows(context: Context, length: int, head_dim: int, causal: bool, by: str) -> Iterator[Row]:
    """Every operation of some contestants in one case.

    Raises `RuntimeError` where nothing could be timed, other than where PyTorch is not to be had.
    """
    args, case, device = asked(context, length, head_dim, causal)
    exact = reference(case) if length <= LONGEST_COMPARED else None
    found = (
        _in_torch(args, case, device)
        if by == "PyTorch"
        else _in_jax(context, by, case, device, args)
    )
    timed, reasons = 0, set[str]()
    for row, results in found:
        wanted = None if exact is None else exact[row["op"]]
        yield lined(attention.judged(row, case, device, results, wanted))
        timed += "ms" in row
        reasons |= {row["reason"]} if "reason" in row else set()
    if not timed and by != "PyTorch":
        raise RuntimeError(f"nothing could be timed: {'; '.join(sorted(reasons))}")


def _in_jax(
    context: Context, by: str, case: Case, device: Device, args: argparse.Namespace
) -> Iterator[tuple[Row, attention.Results]]:
    for name, ops in (REHEARSED if context.rehearse else CONTESTANTS)[by].items():
        for op in ops:
            if name != "jax-xla" or case.length <= LONGEST_DENSE:
                yield attention.in_jax(args, name, op, case, device.cache)


def _in_torch(
    args: argparse.Namespace, case: Case, device: Device
) -> Iterator[tuple[Row, attention.Results]]:
    """PyTorch's attention and jvp_flash_attention, each in a process of its own."""
    unavailable, versions = attention.torch_peers(args)
    for peer, why in unavailable.items():
        if why is not None:
            yield {"contestant": peer, "ours": False, "op": "fused", "reason": why}, {}
            continue
        for row, results in attention.in_torch(args, peer, case, device.cache):
            yield row | {"versions": versions}, results


def asked(
    context: Context, length: int, head_dim: int, causal: bool
) -> tuple[argparse.Namespace, Case, Device]:
    """What `attention.py` is told, one case, and the device with the ceilings that were measured on it."""
    given = ["--repeat", "20", "--timeout", str(context.limit), "--torch-python", sys.executable]
    given += ["--ops", *(op for op in OPS if op != "two passes")]
    batch, heads = (4, 16) if length <= LONGEST_COMPARED else (2, 8)
    if context.rehearse:
        given += ["--repeat", "2"]
        length, batch, heads = 64, 1, 2
    case = Case(length, head_dim, causal, batch, heads, "bfloat16", 0.0)
    kind = jax.devices()[0].device_kind
    known = DEVICES.get(kind, Device(1.0, 1.0, UNKNOWN_CACHE))
    measured = context.ceilings
    device = Device(
        measured.get("bfloat16", known.tflops), measured.get("copy", known.bandwidth), known.cache
    )
    return attention.parser().parse_args(given), case, device


def lined(row: Row) -> Row:
    """A row with the line that the table shows of it, where it is more than that it cannot run."""
    if "ms" not in row:
        forced = "forward mode" in row["reason"]
        told: dict[str, Any] = {} if forced else {"line": f"{_name(row)}: {row['reason'][:80]}"}
        return row | told
    floor = f", {row['floor_percent']:.0f}% of the ceiling" if "floor_percent" in row else ""
    worst = max(row["errors"].values(), default=float("nan"))
    text = f"{row['ms']:.4f} ms, {row['tflops']:.0f} TFLOP/s{floor}, error {worst:.1e}"
    return row | {"line": f"{_name(row)}: {text}"}


def _name(row: Row) -> str:
    mode = "causal" if row["causal"] else "plain"
    return f"{row['length']:>5} x {row['head_dim']:<3} {mode} {row['op']}, {row['contestant']}"
