"""Several processes of one command on this machine, that train together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, Any

from scmkit.distribution.surroundings import ADDRESS, COUNT, INDEX
from scmkit.telling import Unfailing

GRACE = 90
"""Seconds that processes have to end by themselves when one has failed."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Those that are passed on to all processes."""


def launch(
    command: Sequence[str], processes: int, devices: int | None = None, grace: float = GRACE
) -> int:
    """Run so many processes of a command that join each other, and return their exit code.

    It is that of the first to fail. The first process has the terminal; what the others print goes to
    standard error, each line with the number of its process.

    **Arguments:**

    - `command`: the program and its arguments.
    - `processes`: how many.
    - `devices`: of each process: parts of the CPU, or GPUs; None for the whole CPU, or one GPU.
    - `grace`: seconds that processes have to end when one has failed.
    """
    port = free_port()
    running: list[subprocess.Popen[str]] = []
    with _passed_on(running):
        for i in range(processes):
            running.append(_start(command, environment(i, processes, devices, port), i))
        readers = [_prefixed(process, i) for i, process in enumerate(running) if i]
        code = _first_failure(running, grace)
    for reader in readers:
        reader.join(timeout=5)
    return code


def environment(i: int, processes: int, devices: int | None, port: int) -> dict[str, str]:
    """What the environment of process `i` has, with which it joins the others at a port of this machine."""
    address, own = f"127.0.0.1:{port}", devices or 1
    given = {
        COUNT: str(processes),
        INDEX: str(i),
        ADDRESS: address,
        # Nobody else on the network can reach it.
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "JAX_LOCAL_DEVICE_IDS": ",".join(str(own * i + k) for k in range(own)),
    }
    if devices is not None:
        flags = os.environ.get("XLA_FLAGS", "")
        given["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
    return {**os.environ, **given}


def _start(command: Sequence[str], environment: dict[str, str], i: int) -> subprocess.Popen[str]:
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if i else {}
    # In groups of their own, so that Ctrl-C on the terminal reaches each of them once, from here.
    return subprocess.Popen(
        command,
        env=environment,
        process_group=0,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        **piped,
    )


def _prefixed(process: subprocess.Popen[str], i: int) -> threading.Thread:
    def read(lines: IO[str]) -> None:
        with lines:
            for line in lines:
                print(f"[{i}] {line.rstrip()}", file=Unfailing(sys.stderr), flush=True)

    reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
    reader.start()
    return reader


@contextlib.contextmanager
def _passed_on(running: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """While entered, signals to this process reach all others, which decide what to make of them."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in running:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _first_failure(running: Sequence[subprocess.Popen[str]], grace: float) -> int:
    """Wait for all processes; the exit code of the first to fail, after which the others have a grace."""
    first, until, asked = 0, float("inf"), False
    while left := [process for process in running if process.poll() is None]:
        if not first and (first := _failure(running)):
            until = time.monotonic() + grace
        if time.monotonic() > until:
            for process in left:
                process.kill() if asked else process.terminate()
            asked, until = True, time.monotonic() + 10
        time.sleep(0.1)
    first = first or _failure(running)
    return first if first >= 0 else 128 - first


def _failure(running: Sequence[subprocess.Popen[str]]) -> int:
    return next((process.returncode for process in running if process.returncode), 0)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as trying:
        trying.bind(("127.0.0.1", 0))
        return trying.getsockname()[1]
