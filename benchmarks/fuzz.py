"""Files of strangers, made wrong: every reader answers by a `ScmkitError`, in time and in bounds.

    python benchmarks/fuzz.py --inputs 100000 --out benchmarks/results/fuzz.json
    python benchmarks/fuzz.py --replay TARGET FILE

Guided by coverage where atheris is installed (`pip install atheris`), else or with `--plain` by mutations at
random. What fails is kept in `--failures`, with the command that replays it. Targets are those of
`tests/support/fuzz_targets.py`, which the tests run for a moment.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from common import write


def fuzz(name: str, inputs: int, seed: int, failures: Path, plain: bool) -> dict[str, Any]:
    """One target, `inputs` times, in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, began = Path(temporary), time.monotonic()
        child = subprocess.run(
            [
                *(sys.executable, str(Path(__file__).with_name("fuzz_target.py"))),
                *(name, str(inputs), str(seed), temporary, *["--plain"] * plain),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        report = folder / "report.json"
        if not report.exists():
            sys.exit(f"{name}: did not start\n{child.stderr[-2000:]}")
        found = json.loads(report.read_text())
        if child.returncode:
            last = (child.stderr.strip().splitlines() or [""])[-1]
            found["failures"][f"ended by {child.returncode}: {last[:200]!r}"] = folder / "current"
        for i, (what, file) in enumerate(found["failures"].items()):
            failures.mkdir(parents=True, exist_ok=True)
            kept = Path(shutil.copy(file, failures / f"{name}-{i}"))
            found["failures"][what] = f"python benchmarks/fuzz.py --replay {name} {kept}"
            print(f"  {what}\n  {found['failures'][what]}", flush=True)
    found["seconds"] = round(time.monotonic() - began)
    # Branches reached, and those by how often: libFuzzer's last line.
    if coverage := re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", child.stderr):
        found |= dict(zip(("edges", "features", "corpus"), map(int, coverage[-1]), strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"))
    args = parser.parse_args()
    from fuzz_targets import TARGETS  # pyright: ignore[reportMissingImports]

    if args.replay:
        name, file = args.replay
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[name].run(Path(file).read_bytes(), Path(folder))
        return
    plain = args.plain or importlib.util.find_spec("atheris") is None
    names = args.targets or list(TARGETS)
    engine = "plain" if plain else f"atheris {importlib.metadata.version('atheris')}"
    results, summary = {}, {"engine": engine}
    for i, name in enumerate(names):
        inputs = args.inputs // len(names) + (i < args.inputs % len(names))
        results[name] = found = fuzz(name, inputs, args.seed, args.failures, plain)
        edges = "" if plain else f"{found.get('edges', 0):6} edges"
        print(
            f"{name:16} {found['inputs']:7} in {found['seconds']:4} s {found['slowest_ms']:8} ms "
            f"{edges}  {found['answers']}",
            flush=True,
        )
        # After each target, so that a long run that is cut short is of use.
        summary |= {
            "inputs": sum(one["inputs"] for one in results.values()),
            "failed": sum(len(one["failures"]) for one in results.values()),
            "slowest_ms": max(one["slowest_ms"] for one in results.values()),
            "peak_mib": max(one["peak_mib"] for one in results.values()),
        }
        write(args.out, {**summary, "targets": results})
    print(summary)
    sys.exit(bool(summary["failed"]))


if __name__ == "__main__":
    main()
