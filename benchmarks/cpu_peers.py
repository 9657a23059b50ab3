"""Training steps and sampling on a CPU, beside PyTorch: the same transformer, in turn on one core.

Every contestant is a process of its own, alive all the while; blocks of `--seconds` of CPU time alternate.
The ratio is the median over rounds of the CPU time over that of PyTorch's diffusion step, or of its loop of
as many DDIM steps. All run on one core, the first that this process may use; give a Python that has torch:

    python benchmarks/cpu_peers.py --torch-python TORCH/bin/python --out peers.json
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.random as jr
from common import write
from steps import SHAPE, Contestant, noise_store
from turns import Worker, serve

from scmkit import build_model, compose
from scmkit.composing.build import build_free
from scmkit.plugin import Slot
from scmkit.sampling import conditioning, draw, prior

HERE = Path(__file__).parent
SIZE = {"dit.width": 256, "dit.depth": 6, "dit.heads": 4, "dit.patch": 2}
"""7.37 million parameters with `adaln`, as the peer has; 196 tokens."""
GROUPS = {
    "training": ("torch train", "scmkit diffusion", "scmkit sct", "scmkit scd"),
    "sampling, 1 step": ("torch sample 1", "scmkit ddim 1", "scmkit consistency 1"),
    "sampling, 18 steps": ("torch sample 18", "scmkit ddim 18", "scmkit consistency 18"),
}
"""The contestants of each table, the first of which is 1."""


def command(name: str, args: argparse.Namespace) -> list[str]:
    """What starts the contestant."""
    kind, work, *steps = name.split()
    if kind == "torch":
        sample = ["--sample", *steps] if work == "sample" else []
        batch = args.sample_batch if sample else args.batch
        return [args.torch_python, str(HERE / "cpu_torch.py"), "--batch", str(batch), *sample]
    batches = ["--batch", str(args.batch), "--sample-batch", str(args.sample_batch)]
    return [sys.executable, str(HERE / "cpu_peers.py"), *batches, "--contestant", name]


def contest(names: tuple[str, ...], args: argparse.Namespace) -> dict[str, Any]:
    """One table: by contestant its ratio to the first, with the range over rounds, and its memory."""
    workers = {name: Worker(command(name, args)) for name in names}
    rounds = [{n: w.run(args.seconds) for n, w in workers.items()} for _ in range(args.rounds)]
    for worker in workers.values():
        worker.close()
    table = {}
    for name in names:
        ratios = [r[name]["seconds"] / r[names[0]]["seconds"] for r in rounds]
        table[name] = {
            "ratio": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "ms": 1e3 * statistics.median(r[name]["seconds"] for r in rounds),
            "process_peak_mib": rounds[-1][name]["peak_mib"],
        }
    return table


def ours(name: str, batch: int, sample_batch: int) -> Callable[[], Any]:
    """What a contestant of scmkit's does over and over."""
    _, what, *steps = name.split()
    with TemporaryDirectory() as folder:
        data = noise_store(Path(folder) / "store", SHAPE, 64)
        if not steps:
            settings = SIZE | {"train.clip": 1.0}
            contestant = Contestant(
                ["trigflow", what, "dit", "adaln"], data, SHAPE, batch, settings
            )
            return lambda: contestant.run(0)
        loss = "sct" if what == "consistency" else "diffusion"
        recipe = compose(["trigflow", loss, "dit", "adaln"], SIZE, data=str(data))
        model, sampler = build_model(recipe, key=jr.key(0)), build_free(Slot.sampler, what, {})
        noise = prior(model, recipe.data, sample_batch, key=jr.key(0))
        cond = conditioning(recipe.data, sample_batch)
    return lambda: jax.block_until_ready(
        draw(model, sampler, noise, cond, steps=int(steps[0]), key=jr.key(1))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds per block")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sample-batch", type=int, default=8)
    parser.add_argument("--only", choices=list(GROUPS), help="one table instead of all")
    parser.add_argument("--contestant", help="work as this one, for another process of this script")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.contestant:
        serve(ours(args.contestant, args.batch, args.sample_batch))
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # Inherited by the contestants.
    results = {}
    for group, names in GROUPS.items():
        if args.only in (None, group):
            results[group] = table = contest(names, args)
            print(group)
            for name, row in table.items():
                print(
                    f"  {name:<22} {row['ratio']:.2f} [{row['min']:.2f}, {row['max']:.2f}]"
                    f"  {row['ms']:8.1f} ms  {row['process_peak_mib']:6.0f} MiB"
                )
    write(args.out, results)


if __name__ == "__main__":
    main()
