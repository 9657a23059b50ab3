"""A whole sCM training step over a diffusion step for DiT-B/2 on latents, by its attention.

Time ratio and memory at several numbers of tokens, with XLA's attention and the fused one, for each
choice of what the backward pass recomputes. The network computes in bfloat16 on float32
parameters. With fused attention the memory per token must not grow with the tokens.

    python benchmarks/attention_step.py --out benchmarks/results/attention-step-gpu.json
"""

import argparse
import gc
import math
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
from attention_jax import reason
from common import write
from steps import Contestant, compare, noise_store

Row = dict[str, Any]


def latent(tokens: int) -> tuple[int, int, int]:
    """The shape of a latent that is so many patches of 2 x 2."""
    side = 2 * math.isqrt(tokens)
    if side**2 != 4 * tokens:
        raise SystemExit(f"{tokens} tokens are not a square")
    return 4, side, side


def measure(args: argparse.Namespace, tokens: int, plugin: str, remat: str) -> Row:
    """Both steps of one network, or why they cannot run."""
    row: Row = {"tokens": tokens, "plugin": plugin, "remat": remat, "batch": args.batch}
    shape = latent(tokens)
    settings = {"width": args.width, "depth": args.depth, "heads": args.heads, "remat": remat}
    options: dict[str, Any] = {f"dit.{name}": value for name, value in settings.items()}
    if args.implementation and plugin == "pallas-attention":
        options["pallas-attention.implementation"] = args.implementation
    dtype = None if args.dtype == "float32" else jnp.dtype(args.dtype)
    with TemporaryDirectory() as folder:
        data = noise_store(Path(folder) / "store", shape, 16)
        try:
            plain, scm = (
                Contestant(
                    ["trigflow", loss, "dit", plugin], data, shape, args.batch, options, dtype
                )
                for loss in ("diffusion", "sct")
            )
            for name, contestant in (("diffusion", plain), ("scm", scm)):
                row[f"{name}_temp_mib"] = contestant.temp_bytes / 2**20
            for contestant in (plain, scm):
                contestant.run(0)
            row |= compare(plain, scm, args.rounds, args.seconds)
        except Exception as e:  # whatever keeps a step from running is its row
            row["reason"] = reason(e)
    return row


def report(row: Row) -> None:
    """Print one row; memory per token is of all samples' tokens together."""
    head = f"{row['tokens']:>6} {row['plugin']:<17} {row['remat']:<6}"
    memory = f"{'-':>10} {'-':>10}"
    if "scm_temp_mib" in row:
        each = 2**10 * row["scm_temp_mib"] / (row["tokens"] * row["batch"])
        memory = f"{row['scm_temp_mib']:10.0f} {each:10.1f}"
    if "reason" in row:
        print(f"{head} {'-':>12} {'-':>6} {'-':>14} {memory}  {row['reason']}")
        return
    span = f"[{row['min']:.2f}, {row['max']:.2f}]"
    print(f"{head} {row['diffusion_ms']:12.1f} {row['ratio']:6.3f} {span:>14} {memory}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="*", default=[256, 1024, 4096])
    parser.add_argument("--plugin", nargs="*", default=["xla-attention", "pallas-attention"])
    parser.add_argument("--implementation", choices=("mosaic", "triton", "xla"))
    parser.add_argument("--remat", nargs="*", default=["none", "light", "full"])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="per block")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(
        f"{'tokens':>6} {'attention':<17} {'remat':<6} {'diffusion ms':>12} {'sCM /':>6} "
        f"{'':>14} {'sCM MiB':>10} {'KiB/token':>10}"
    )
    rows = []
    for tokens in args.tokens:
        for plugin in args.plugin:
            for remat in args.remat:
                print(f"{tokens} tokens, {plugin}, {remat}", file=sys.stderr, flush=True)
                rows.append(measure(args, tokens, plugin, remat))
                report(rows[-1])
                jax.clear_caches()
                gc.collect()
    write(args.out, {"rows": rows, "settings": vars(args) | {"out": str(args.out)}})


if __name__ == "__main__":
    main()
