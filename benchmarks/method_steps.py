"""A training step of every method over a diffusion step: same network, same batch, in turn in one process.

Time of the compiled step (loss, optimizer, EMA, followers and players) and operations of its matrix products.
A method with a second player is timed as its own schedule has it, updates of the other player and all. Each
block of a method's steps stands between two of diffusion's. Pin it to one core:

    taskset -c 0 python benchmarks/method_steps.py --out benchmarks/results/method-steps.json
"""

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from common import write
from steps import SHAPE, Contestant, noise_store

from scmkit.composing.entries import entries
from scmkit.composing.loading import load
from scmkit.plugin import Slot


def methods() -> list[str]:
    """The built-in plugins of a few-step loss, but for those that train on stored pairs."""
    own = [load(entry) for entry in entries() if entry.package == "scmkit"]
    return [
        plugin.name
        for plugin in own
        if Slot.loss in plugin.provides
        and plugin.name != "diffusion"
        and plugin.suggests.get(Slot.coupling) != "stored"
    ]


def products(method: Contestant, base: float) -> float | None:
    """Operations of a step's matrix products over `base`; None where a drawn number of steps is taken."""
    try:
        return method.flops() / base
    except ValueError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=methods(), choices=methods())
    parser.add_argument("--network", default="dit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds per block")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    small = {"dit.depth": 4, "dit.width": 192} if args.network == "dit" else {}
    with TemporaryDirectory() as folder:
        data = noise_store(Path(folder) / "store", SHAPE, 256)

        def contestant(loss: str) -> Contestant:
            plugins = ["trigflow", loss, args.network]
            return Contestant(plugins, data, SHAPE, args.batch, small)

        plain = contestant("diffusion")
        base = plain.flops()
        for name in args.methods:
            method = contestant(name)
            blocks = [plain.run(args.seconds)]
            for _ in range(args.rounds):
                blocks += [method.run(args.seconds), plain.run(args.seconds)]
            ratios = [
                2 * blocks[i] / (blocks[i - 1] + blocks[i + 1]) for i in range(1, len(blocks), 2)
            ]
            row = {"method": name, "time": statistics.median(ratios)}
            row |= {"min": min(ratios), "max": max(ratios), "flops": products(method, base)}
            results.append(row)
            counted = "  -" if row["flops"] is None else f"{row['flops']:6.2f}"
            print(
                f"{name:<26} time {row['time']:6.2f} [{row['min']:.2f}, {row['max']:.2f}]  "
                f"products {counted}",
                flush=True,
            )
    write(args.out, results)


if __name__ == "__main__":
    main()
