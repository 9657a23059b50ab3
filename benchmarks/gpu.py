"""Everything that wants a GPU, in stages of falling worth, each in a process of its own.

    python benchmarks/gpu.py --out gpu                    # all of it, about four hours
    python benchmarks/gpu.py --out gpu --budget 480       # what fits in eight minutes
    python benchmarks/gpu.py --out more --budget 480 --skip gpu/results.json     # the next eight
    python benchmarks/gpu.py --out f --stages f --budget 500 --data images.npz   # a training
    python benchmarks/gpu.py --out g --stages g --budget 500 --data images.npz   # some of table one
    python benchmarks/gpu.py --out h --stages g --budget 500 --data images.npz --skip g     # and more
    python benchmarks/gpu.py --list                       # stages, parts, estimates
    python benchmarks/gpu.py --rehearse --out rehearsal   # all of it in tiny, without a GPU

A stage is a list of parts. A part is begun if its estimate fits in what is left, and killed if it takes
more than twice as long; whatever happens to it, its rows are in OUT/results.json as soon as each is
known, with the reason where it failed and what its process printed in OUT/log.txt, and the next part
runs. With a budget each stage leaves the later ones their share of it. The first thing that is said, within
ten seconds, is whether the card works.

scmkit need not be installed: what Python lacks comes from the wheels that gpu_wheels.sh downloads.
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from gpu_stages import plan, site
from gpu_stages.results import FAILED, Recorded, Results
from gpu_stages.run import Runner, table

HERE = Path(__file__).parent


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, help="folder for results.json, log.txt and what is trained"
    )
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="begin nothing that ends later"
    )
    parser.add_argument(
        "--stages", metavar="a,c", help="these alone; stage a's first part always runs"
    )
    parser.add_argument(
        "--skip",
        type=Path,
        nargs="+",
        default=[],
        metavar="RESULTS",
        help="leave out parts that these results.json, or those in these folders, have done, for the same "
        "kernels on the same card; stage g takes its teacher from beside them",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="images of stages f and g: a store, or what `scmkit data import` takes, 28x28 or 32x32",
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, without a GPU")
    parser.add_argument(
        "--list", action="store_true", help="stages, parts and estimates; runs nothing"
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        default=HERE / "wheels",
        metavar="FOLDER",
        help="where gpu_wheels.sh put them (default: wheels beside this file)",
    )
    return parser


def listing(stages: list[plan.Stage]) -> str:
    """Every part with its estimate."""
    lines = []
    for stage in stages:
        lines.append(f"{stage.letter}  {stage.title}: about {stage.seconds / 60:.0f} min")
        for part in stage.parts:
            least = f", {part.at_least:.0f} s or more" if part.at_least else ""
            lines.append(f"   {part.seconds:4.0f} s  {part.name}{least}")
    return "\n".join(lines)


def preview(stages: list[plan.Stage], budget: float) -> str:
    """What a real run would begin within a budget."""
    lines = [f"on a GPU, in {budget:.0f} s:"]
    for stage, begun, end in plan.schedule(stages, budget):
        names = "; ".join(part.name for part in begun) or "nothing"
        lines.append(f"{stage.letter}  {len(begun)} of {len(stage.parts)}, to {end:.0f} s: {names}")
    return "\n".join(lines)


def refuse(why: object) -> NoReturn:
    print(f"gpu.py: {why}", file=sys.stderr)
    sys.exit(2)


def stopped(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def main() -> int:
    args = parser().parse_args()
    if args.budget is not None and not args.budget > 0:
        refuse(f"--budget {args.budget:g}: give a number of seconds above 0")
    try:
        stages, recorded = plan.chosen(args.stages), Recorded(args.skip, args.rehearse)
    except (ValueError, OSError) as error:
        refuse(error)
    if args.list:
        print(listing(stages))
        return 0
    if args.out is None:
        refuse("say where to with --out FOLDER, or look first with --list")
    if (args.out / "results.json").exists():
        refuse(f"{args.out} holds results; choose another --out, and give them to --skip")
    if args.data is not None and not Path(args.data).exists():
        refuse(f"--data {args.data}: no such file or folder")
    args.out.mkdir(parents=True, exist_ok=True)
    about = {"command": " ".join(sys.argv), "date": time.strftime("%Y-%m-%d", time.gmtime())}
    results = Results(args.out / "results.json", about | {"rehearsal": args.rehearse})
    signal.signal(signal.SIGTERM, stopped)
    with TemporaryDirectory(prefix="gpu-") as folder:
        try:
            env = site.environment(args.wheels, Path(folder))
        except (OSError, ValueError) as error:
            refuse(error)
        for line in site.outdated(Path(folder)):
            print(f"gpu.py: {line}; if that fails, give it to gpu_wheels.sh", file=sys.stderr)
        if args.rehearse:
            # The time goes into compiling programs that run once.
            env |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        else:
            # The CPU is for what is computed in float64; a GPU that does not work is to say why.
            env.setdefault("JAX_PLATFORMS", "cuda,cpu")
        data = None if args.data is None else str(Path(args.data).resolve())
        out, budget = args.out.resolve(), args.budget or float("inf")
        runner = Runner(results, recorded, env, out, budget, args.rehearse, data)
        try:
            there = runner.run(stages)
        finally:
            print(
                f"\n{table(results.parts)}\n\nrows in {results.path}, whole logs in {args.out}/log.txt"
            )
    if args.rehearse:
        print(f"\n{preview(stages, args.budget or 480)}")
    return 1 if not there or any(e["status"] == FAILED for e in results.parts) else 0


if __name__ == "__main__":
    sys.exit(main())
