"""A stage's process, which runs one part after another when asked, and is killed when it takes too long."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


class PartFailed(Exception):
    """A part ended without being done; the message says why."""


class Worker:
    """A process that answers requests, a line of JSON each, by rows; all else it prints is for the log."""

    def __init__(self, env: Mapping[str, str], log: IO[bytes]) -> None:
        self.buffer = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpu_stages.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=dict(env),
            cwd=Path(__file__).parents[1],
            start_new_session=True,  # so that what it starts is killed with it
        )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def rows(self, request: Mapping[str, Any], limit: float) -> Iterator[dict[str, Any]]:
        """The rows of one part, as they come; raises `PartFailed`, and ends the process where it has to."""
        deadline = time.monotonic() + limit
        assert self.process.stdin is not None
        # If it is gone, the first look at its answers says how.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        while True:
            answer = json.loads(self._line(deadline, limit))
            if "row" in answer:
                yield answer["row"]
            elif "failed" in answer:
                raise PartFailed(answer["failed"])
            else:
                return

    def _line(self, deadline: float, limit: float) -> bytes:
        out = self.process.stdout
        assert out is not None
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise PartFailed(f"killed: not done after {limit:.3g} s")
                read = os.read(out.fileno(), 1 << 16)
                if not read:
                    self.kill(grace=10)
                    raise PartFailed(f"its process ended with {_code(self.process.returncode)}")
                self.buffer += read
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def kill(self, grace: float = 0.0) -> None:
        """End it and whatever it started; `grace` seconds are left to one that is ending by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.kill(grace=10)


def _code(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
