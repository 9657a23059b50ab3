"""The peers in PyTorch: its own attention, jvp_flash_attention (the PyPI package), rCM's Triton kernel.

Run by attention.py in processes of its own, with any Python that has torch: its CUDA libraries
and JAX's need not agree, and a kernel that breaks its process breaks nothing else. Prints one JSON
object a line; the results for the checked heads go to `--results FILE.npz`.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from attention_problem import OPS, RESULTS, Case, Op, checked, inputs

PEERS = ("torch", "jvp-flash-attention", "rcm")
"""Each with its class in `KINDS`."""

torch: Any = None
"""Imported by `main`: this file is also read where there is none."""


def probe(rcm: Path | None) -> dict[str, str | None]:
    """For each peer why it cannot run here, or None."""
    found: dict[str, str | None] = {}
    for peer in PEERS:
        try:
            if not torch.cuda.is_available():
                raise RuntimeError("no CUDA device")
            load(peer, rcm)
            found[peer] = None
        except Exception as e:
            found[peer] = f"{type(e).__name__}: {e}".splitlines()[0][:120]
    return found


def load(peer: str, rcm: Path | None) -> Any:
    """The peer's function or `torch.autograd.Function`."""
    if peer == "torch":
        return torch.nn.functional.scaled_dot_product_attention
    if peer == "jvp-flash-attention":
        return importlib.import_module("jvp_flash_attention.jvp_attention").JVPAttn
    if rcm is None:
        raise RuntimeError("give a checkout of NVlabs/rcm with --rcm")
    _stand_in_for_flash_attn()
    path = rcm / "rcm" / "utils" / "flash_attention_jvp_triton.py"
    spec = importlib.util.spec_from_file_location("rcm_kernel", path)
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.attention


def _stand_in_for_flash_attn() -> None:
    """rCM's backward is flash_attn's; without that package its own kernel can still be timed."""
    try:
        importlib.import_module("flash_attn.flash_attn_interface")
    except ImportError:

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("rCM's backward is flash_attn's, which is not installed")

        interface = ModuleType("flash_attn.flash_attn_interface")
        interface._flash_attn_backward = missing  # pyright: ignore[reportAttributeAccessIssue]
        interface._flash_attn_varlen_backward = missing  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules["flash_attn"] = ModuleType("flash_attn")
        sys.modules["flash_attn.flash_attn_interface"] = interface


class Torch:
    """PyTorch's own attention: its fused kernels have no forward mode."""

    def __init__(self, function: Any, case: Case) -> None:
        self.function = function
        self.causal = case.causal

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return self.function(q, k, v, is_causal=self.causal)

    def dual(self, q: Any, k: Any, v: Any, tq: Any, tk: Any, tv: Any) -> tuple[Any, Any]:
        raise NotImplementedError("no forward mode")

    def differentiable(self, primals: list[Any], tangents: list[Any]) -> Any:
        return self.forward(*primals)


class JVPFlashAttention:
    """jvp_flash_attention: its tangent is asked for through PyTorch's dual tensors."""

    def __init__(self, function: Any, case: Case) -> None:
        self.function = function
        self.causal = case.causal

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return self.function.fwd(q, k, v, causal=self.causal)

    def dual(self, q: Any, k: Any, v: Any, tq: Any, tk: Any, tv: Any) -> tuple[Any, Any]:
        forward_ad = torch.autograd.forward_ad
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(a, t) for a, t in zip((q, k, v), (tq, tk, tv), strict=True)
            ]
            return tuple(forward_ad.unpack_dual(self.function.fwd_dual(*duals, causal=self.causal)))

    def differentiable(self, primals: list[Any], tangents: list[Any]) -> Any:
        return self.dual(*primals, *tangents)[0]


class RCM:
    """rCM's kernel: output and tangent always together, no causal mask."""

    def __init__(self, function: Any, case: Case) -> None:
        if case.causal:
            raise NotImplementedError("no causal mask")
        self.function = function

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        raise NotImplementedError("no forward pass without a tangent")

    def dual(self, q: Any, k: Any, v: Any, tq: Any, tk: Any, tv: Any) -> tuple[Any, Any]:
        return self.function(q, k, v, tq, tk, tv)

    differentiable = JVPFlashAttention.differentiable


KINDS = {"torch": Torch, "jvp-flash-attention": JVPFlashAttention, "rcm": RCM}


def operation(op: Op, peer: Any, x: dict[str, Any]) -> Callable[[], tuple[Any, ...]]:
    """An operation on one set of inputs."""
    primals, tangents = [x[n] for n in ("q", "k", "v")], [x[n] for n in ("tq", "tk", "tv")]
    tracked = [a.detach().requires_grad_() for a in primals]

    def forward() -> tuple[Any, ...]:
        with torch.no_grad():
            return (peer.forward(*primals),)

    def fused() -> tuple[Any, ...]:
        with torch.no_grad():
            return peer.dual(*primals, *tangents)

    def two_passes() -> tuple[Any, ...]:
        return (*forward(), fused()[1])

    def training() -> tuple[Any, ...]:
        o, to = peer.dual(*tracked, *tangents)
        loss = torch.mean((o - o.detach() + to.detach()).float() ** 2)
        return torch.autograd.grad(loss, tracked)

    if op == "backward":
        kept = peer.differentiable(tracked, tangents)
        return lambda: torch.autograd.grad(kept, tracked, x["do"], retain_graph=True)
    calls: dict[Op, Callable[[], tuple[Any, ...]]] = {
        "forward": forward,
        "fused": fused,
        "two passes": two_passes,
        "training": training,
    }
    return calls[op]


def run(peer: Any, case: Case, op: Op, sets: int, repeat: int) -> tuple[dict[str, Any], Any]:
    """Time one operation and return its row and its results for the checked heads."""
    dtype = getattr(torch, case.dtype)

    made = {n: torch.from_numpy(a) for n, a in inputs(case).items()}

    def on_device() -> dict[str, Any]:
        return {n: a.to("cuda", dtype).transpose(1, 2).contiguous() for n, a in made.items()}

    calls = [operation(op, peer, on_device()) for _ in range(sets)]
    for call in calls:
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = calls[0]()
    torch.cuda.synchronize()
    kept = torch.cuda.memory_allocated() - before
    temp = torch.cuda.max_memory_allocated() - before - kept
    # Work in front of each call lets the host run ahead, so that its launches are not timed.
    lead = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    times = []
    for i in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(4):
            lead.zero_()
        start.record()
        calls[i % sets]()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    row = {
        "ms": statistics.median(times),
        "min": min(times),
        "max": max(times),
        "timer": "events",
        "temp_mib": temp / 2**20,
    }
    values = [checked(a.detach().transpose(1, 2).float().cpu().numpy()) for a in results]
    return row, dict(zip(RESULTS[op], values, strict=True))


def main() -> None:
    global torch
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probe", action="store_true", help="which peers can run here")
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--case", type=json.loads)
    parser.add_argument("--ops", nargs="*", choices=OPS, default=OPS)
    parser.add_argument("--sets", type=int, default=2, help="copies of the inputs")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--rcm", type=Path)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    torch = importlib.import_module("torch")
    importlib.import_module("torch.autograd.forward_ad")
    if args.probe:
        versions = {"torch": torch.__version__}
        print(json.dumps({"unavailable": probe(args.rcm), "versions": versions}))
        return
    case = Case(**args.case)
    function = load(args.peer, args.rcm)
    kept: dict[str, np.ndarray] = {}
    for op in args.ops:
        try:
            peer = KINDS[args.peer](function, case)
            row, results = run(peer, case, op, args.sets, args.repeat)
            kept |= {f"{op}/{name}": value for name, value in results.items()}
        except Exception as e:
            row = {"reason": f"{type(e).__name__}: {e}".splitlines()[0][:120]}
        torch.cuda.empty_cache()
        print(json.dumps({"op": op, **row}), flush=True)
    if args.results:
        np.savez(args.results, **kept)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
