"""Files of strangers, made wrong at random: every reader answers by a `ScmkitError`, in time and in bounds.

    python benchmarks/fuzz.py --inputs 100000 --out benchmarks/results/fuzz.json
    python benchmarks/fuzz.py --replay TARGET FILE
    python benchmarks/fuzz.py --atheris TARGET --inputs 100000    # guided by coverage, where it is installed

What fails is kept as a file in `--failures`, with the command that replays it. Targets are those of
`tests/fuzz_targets.py`, which the tests run for a moment.
"""

import argparse
import collections
import importlib
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from common import write

SECONDS = 10.0
"""CPU time of an input after which it hangs."""

MEMORY = 2 << 30
"""Bytes beyond those before the first input that an input may map."""


class Hang(BaseException):
    """An input that takes too long."""


def _stop(*_: object) -> None:
    raise Hang(f"over {SECONDS} s of CPU time")


def attempt(run: Any, data: bytes, folder: Path) -> tuple[str, BaseException | None]:
    """How a target answers, and the exception where that is wrong."""
    from scmkit.errors import ScmkitError

    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        run(data, folder)
    except ScmkitError as error:
        if "\n" in str(error):
            return "failed", ValueError(f"an error of several lines: {str(error)!r}")
        return type(error).__name__, None
    except (Exception, Hang) as error:
        return "failed", error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return "read", None


def peak() -> int:
    """The most memory that this process held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(name: str, inputs: int, seed: int, failures: Path) -> dict[str, Any]:
    """One target, `inputs` times."""
    from fuzz_mutations import mutated  # pyright: ignore[reportMissingImports]
    from fuzz_targets import TARGETS  # pyright: ignore[reportMissingImports]

    target, chance = TARGETS[name], random.Random(f"{name} {seed}")
    seeds, answers = target.seeds(), collections.Counter[str]()
    failed: dict[str, str] = {}
    slowest, grown = 0.0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for i in range(inputs):
            data = mutated(chance.choice(seeds), chance) if i >= len(seeds) else seeds[i]
            before, began = peak(), time.thread_time()
            # Kept first, for what ends the process.
            failures.mkdir(parents=True, exist_ok=True)
            (failures / "current").write_bytes(data)
            answer, error = attempt(target.run, data, folder)
            slowest = max(slowest, time.thread_time() - began)
            grown = max(grown, peak() - before)
            answers[answer] += 1
            if error is not None:
                trace = error.__traceback__
                while trace is not None and trace.tb_next is not None:
                    trace = trace.tb_next
                line = "" if trace is None else f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
                where = f"{type(error).__name__} in {line}"
                if where not in failed:
                    file = failures / f"{name}-{len(failed)}"
                    file.write_bytes(data)
                    failed[where] = f"python benchmarks/fuzz.py --replay {name} {file}"
                    print(f"  {where}: {str(error)[:120]!r}\n  {failed[where]}", flush=True)
    (failures / "current").unlink(missing_ok=True)
    return {
        "inputs": inputs,
        "answers": dict(answers),
        "failures": failed,
        "slowest_ms": round(1000 * slowest, 1),
        "largest_growth_mib": round(grown / 2**20, 1),
    }


def guided(name: str, inputs: int) -> None:
    """One target by atheris, which ends the process itself."""
    atheris: Any = importlib.import_module("atheris")

    with atheris.instrument_imports(include=["scmkit"]):
        from fuzz_targets import TARGETS  # pyright: ignore[reportMissingImports]
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, data in enumerate(TARGETS[name].seeds()):
        (corpus / str(i)).write_bytes(data)

    def one(data: bytes) -> None:
        _, error = attempt(TARGETS[name].run, data, folder)
        if error is not None:
            raise error

    atheris.Setup([sys.argv[0], f"-runs={inputs}", "-max_len=65536", str(corpus)], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"))
    parser.add_argument("--atheris", metavar="TARGET")
    args = parser.parse_args()
    signal.signal(signal.SIGVTALRM, _stop)
    if args.atheris:
        guided(args.atheris, args.inputs)
        return
    from fuzz_targets import TARGETS  # pyright: ignore[reportMissingImports]

    if args.replay:
        name, file = args.replay
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[name].run(Path(file).read_bytes(), Path(folder))
        return
    names = args.targets or list(TARGETS)
    # Started now, so that the limit counts inputs and no thread pools.
    fuzz("checkpoint-zarr", 1, 0, args.failures)
    fuzz("recipe-json", 1, 0, args.failures)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
    results, summary, failed = {}, {}, 0
    for name in names:
        results[name] = found = fuzz(name, args.inputs // len(names), args.seed, args.failures)
        print(
            f"{name:16} {found['inputs']:7} {found['slowest_ms']:8} ms  {found['answers']}",
            flush=True,
        )
        # After each target, so that a long run that is cut short is of use.
        total = sum(one["inputs"] for one in results.values())
        failed = sum(len(one["failures"]) for one in results.values())
        summary = {"inputs": total, "failed": failed, "peak_mib": round(peak() / 2**20)}
        write(args.out, {**summary, "targets": results})
    print(summary)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
