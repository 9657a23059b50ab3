"""One target of `fuzz.py`, in a process of its own: what an input does wrong ends that process at most.

    python benchmarks/fuzz_target.py TARGET INPUTS SEED FOLDER [--plain]

Keeps in FOLDER its report and the input at hand, for what ends the process; and what fails.
"""

import collections
import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

SECONDS = 10
"""CPU time of an input after which it hangs; six times that by the clock where Python is not reached."""

MAPPED, HELD = 2 << 30, 256 << 20
"""Bytes beyond those before the first input that an input may map; bytes that it may add to the most held."""


class Hang(BaseException):
    """An input that takes too long."""


def _stop(*_: object) -> None:
    raise Hang(f"over {SECONDS} s of CPU time")


def peak() -> int:
    """The most memory that this process held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt(run: Any, data: bytes, folder: Path) -> tuple[str, BaseException | None]:
    """How a target answers, and the exception where that is wrong."""
    from scmkit.errors import ScmkitError

    before = peak()
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    signal.alarm(6 * SECONDS)
    answer = "read"
    try:
        run(data, folder)
    except ScmkitError as error:
        answer = type(error).__name__
        if "\n" in str(error):
            return "failed", ValueError(f"an error of several lines: {str(error)!r}")
    except (Exception, Hang) as error:
        return "failed", error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.alarm(0)
    if (grown := peak() - before) > HELD:
        return "failed", MemoryError(f"{grown >> 20} MiB for {len(data)} bytes")
    return answer, None


class Record:
    """Tries inputs and keeps count in a file."""

    def __init__(self, name: str, folder: Path) -> None:
        from fuzz_targets import TARGETS  # pyright: ignore[reportMissingImports]

        self.name, self.folder, self.target = name, folder, TARGETS[name]
        self.seeds = self.target.seeds()
        self._place = Path(tempfile.mkdtemp(dir=folder))
        self._answers, self._failed = collections.Counter[str](), dict[str, str]()
        self._slowest, self._grown = 0.0, 0
        signal.signal(signal.SIGVTALRM, _stop)
        for data in self.seeds:
            self.target.run(data, self._place)
        # Thread pools are there by now, so that the limit counts inputs alone.
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MAPPED, resource.RLIM_INFINITY))

    def attempt(self, data: bytes) -> None:
        (self.folder / "current").write_bytes(data)
        before, began = peak(), time.thread_time()
        answer, error = attempt(self.target.run, data, self._place)
        self._slowest = max(self._slowest, time.thread_time() - began)
        self._grown = max(self._grown, peak() - before)
        self._answers[answer] += 1
        if error is not None:
            self._keep(data, error)
        report = {
            "inputs": self._answers.total(),
            "answers": dict(self._answers),
            "failures": self._failed,
            "slowest_ms": round(1000 * self._slowest, 1),
            "largest_growth_mib": round(self._grown / 2**20, 1),
            "peak_mib": round(peak() / 2**20),
        }
        (self.folder / "report.json").write_text(json.dumps(report))

    def _keep(self, data: bytes, error: BaseException) -> None:
        """Keep the first input of those that fail alike."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        line = "" if trace is None else f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
        where = f"{type(error).__name__} in {line}: {str(error)[:120]!r}"
        alike = where.partition(": ")[0]
        if not any(known.startswith(alike) for known in self._failed):
            file = self.folder / f"failed-{len(self._failed)}"
            file.write_bytes(data)
            self._failed[where] = str(file)


def plain(record: Record, inputs: int, seed: int) -> None:
    """Mutations of the seeds at random."""
    from fuzz_mutations import mutated  # pyright: ignore[reportMissingImports]

    chance, seeds = random.Random(f"{record.name} {seed}"), record.seeds
    for i in range(inputs):
        record.attempt(mutated(chance.choice(seeds), chance) if i >= len(seeds) else seeds[i])


def main() -> None:
    name, inputs, seed, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    engine: Callable[[Record, int, int], None] = plain
    if "--plain" in sys.argv:
        engine(Record(name, folder), inputs, seed)
    else:
        from fuzz_guided import guided

        guided(lambda: Record(name, folder), inputs, seed)


if __name__ == "__main__":
    main()
