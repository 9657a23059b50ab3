"""Jobs of several processes, as tests start them."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scmkit.distribution.launch import environment, free_port

PROGRAM = Path(__file__).with_name("program.py")


class Job:
    """The processes of `program.py`, each with its own standard error."""

    def __init__(
        self,
        thing: str,
        directory: Path,
        count: int = 2,
        environments: Sequence[Mapping[str, str]] | None = None,
        prefixes: Sequence[Sequence[str]] | None = None,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        port = free_port()
        given = environments or [environment(i, count, 1, port) for i in range(count)]
        kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        self.processes = [
            subprocess.Popen(
                [*(prefixes[i] if prefixes else ()), sys.executable, PROGRAM, thing, directory],
                env=kept | dict(own),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i, own in enumerate(given)
        ]

    def pids(self, timeout: float = 60) -> list[int]:
        """The numbers of the processes, once all are ready."""
        files = [self.directory / f"{i}.pid" for i in range(len(self.processes))]
        until = time.monotonic() + timeout
        while not all(file.exists() for file in files):
            assert time.monotonic() < until, [p.poll() for p in self.processes]
            time.sleep(0.05)
        return [int(file.read_text()) for file in files]

    def end(self, timeout: float = 60) -> list[tuple[int, str, str]]:
        """The exit code, the output and the errors of every process."""
        until = time.monotonic() + timeout
        try:
            return [
                (process.returncode, *told)
                for process in self.processes
                for told in [process.communicate(timeout=max(0.1, until - time.monotonic()))]
            ]
        finally:
            for process in self.processes:
                process.kill()
                process.communicate()
