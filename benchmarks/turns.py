"""Contestants in processes of their own that work in turn, so that a busy machine slows all alike.

Needs the standard library alone: a contestant may run in a Python without JAX.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable


def serve(work: Callable[[], object]) -> None:
    """Call `work` for each number of seconds on a line of the input; answer with the CPU time of one call.

    And with the peak memory of the process so far, in which imports and compiling are.
    """
    work()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds, start, done = float(line), time.process_time(), 0
        while done == 0 or time.process_time() - start < seconds:
            work()
            done += 1
        each = (time.process_time() - start) / done
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": each, "peak_mib": held}), flush=True)


class Worker:
    """A contestant in its process."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def run(self, seconds: float) -> dict[str, float]:
        """Work for so many seconds of CPU time; seconds of one call and peak memory."""
        assert self.process.stdin is not None
        print(seconds, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self.command)} ended")
