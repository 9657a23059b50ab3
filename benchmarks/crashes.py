"""Does a run survive being killed at any moment? Kills real processes and compares with undisturbed ones.

Runs are killed at random moments or before random ones of their file operations, half and half, and new
ones started until `--kills` kills have struck. `--every-operation` instead kills a short run once before each
of its operations, but of a row of them on arrays before the first, middle and last. `--methods` sends
SIGTERM, SIGINT and SIGKILL to runs of these methods, of one stage and of several. The harness is
`tests/support/killing.py`.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from common import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import killing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--import-kills", type=int, default=10)
    parser.add_argument("--kills-per-run", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-operation", action="store_true")
    parser.add_argument("--methods", nargs="+", default=[], choices=list(killing.PLAYED))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began, struck, runs, bad = time.monotonic(), Counter[str](), 0, []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cache = root / "cache"
        killing.train(root, "warm", steps=args.steps, cache=cache)
        one = killing.train(root, "one", steps=args.steps, cache=cache)
        assert killing.differences(root / "warm", one) == []
        counted = len(killing.operations(one))
        if args.every_operation:
            struck, bad = every_operation(root, cache)
            runs = args.kills = struck.total()
        for method in args.methods:
            bad += played(root, method, cache)
            struck[f"{method}: SIGTERM, SIGINT, SIGKILL"] = len(killing.SIGNALS)
            runs, args.kills = runs + 1, struck.total()
            print(f"{method}: {len(bad)} differences", flush=True)
        while struck.total() < args.kills:
            kills = min(args.kills_per_run, args.kills - struck.total())
            struck += killing.train_through(
                root,
                f"run-{runs}",
                steps=args.steps,
                cache=cache,
                kills=kills,
                counted=counted,
                seed=args.seed + runs,
            )
            bad += killing.differences(one, root / f"run-{runs}")
            runs += 1
            print(f"{struck.total()} kills, {runs} runs, {len(bad)} differences", flush=True)
        imported, stores = Counter[str](), 0
        if args.import_kills:
            source = root / "source.npz"
            images = np.random.default_rng(0).integers(0, 256, (8000, 1, 64, 64), np.uint8)
            np.savez(source, images=images)
            tick = time.monotonic()
            killing.import_through(source, root / "store", cache=cache, kills=0, seconds=0)
            seconds = time.monotonic() - tick
            counted = len(killing.operations(root / ".store"))
            while imported.total() < args.import_kills:
                dest = root / f"store-{stores}"
                imported += killing.import_through(
                    source,
                    dest,
                    cache=cache,
                    kills=5,
                    seconds=seconds,
                    counted=counted,
                    seed=args.seed + stores,
                )
                if not killing.same_store(root / "store", dest):
                    bad.append(f"{dest}: differs, or something is left")
                stores += 1
    for place, count in (struck + imported).most_common():
        print(f"{place:<40} {count:5d}")
    print(f"{runs} runs and {stores} stores; files that differ or are left: {len(bad)}")
    for line in bad:
        print(line)
    results = {
        "kills": struck.total() + imported.total(),
        "struck": dict((struck + imported).most_common()),
        "runs": runs,
        "stores": stores,
        "differences": bad,
        "seconds": time.monotonic() - began,
    }
    write(args.out, results)
    sys.exit(bool(bad))


def played(root: Path, method: str, cache: Path) -> list[str]:
    """What a run of a method that was signalled in each of its parts differs in from an undisturbed one."""
    often = {"method": method, "steps": 10, "log": 2, "checkpoint": 1, "sample": 10}
    one = killing.train(root, f"{method}-one", cache=cache, **often)
    killing.signalled(root, f"{method}-two", killing.SIGNALS, cache=cache, **often)
    return killing.differences(one, root / f"{method}-two")


def every_operation(root: Path, cache: Path) -> tuple[Counter[str], list[str]]:
    """Where the kills struck, and what the runs that ended after them differ in."""
    struck, bad = Counter[str](), []
    one = killing.train(root, "short", cache=cache, **killing.SHORT)
    lines = killing.operations(one)
    for number in killing.distinct(lines):
        two = killing.killed_at(root, "killed", number, cache=cache, **killing.SHORT)
        struck[killing.part(lines[number - 1])] += 1
        bad += killing.differences(one, two)
        shutil.rmtree(two)
        print(f"operation {number} of {len(lines)}, {len(bad)} differences", flush=True)
    return struck, bad


if __name__ == "__main__":
    main()
