"""Trainings as commands of one process or several, and how tests compare them."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from small_runs import without_clock

from scmkit import Run
from scmkit.distribution.launch import environment, free_port
from scmkit.errors import UsageError
from scmkit.runs import checkpoint

SCMKIT = (sys.executable, "-P", "-c", "from scmkit_cli.main import main; main()")

SMALL = [
    *("--data", "digits", "--batch-size", "16", "--set", "train.log_every=1"),
    # Some arrays of this width are divided.
    *("--set", "mlp.width=256", "--set", "mlp.depth=1", "--plugin", "mlp"),
]

DIFFUSION = ("--plugin", "trigflow", "--plugin", "diffusion", "--plugin", "ddim")

TIMEOUT = 400


def said(*command: str | Path, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """The exit code, output and errors of `scmkit COMMAND`."""
    done = subprocess.run(
        [*SCMKIT, *map(str, command)],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout, done.stderr


def launched(processes: int, devices: int = 1) -> tuple[str, ...]:
    """How a command line begins that so many processes run."""
    own = ("--devices-per-process", str(devices))
    return ("launch", "--processes", str(processes), *own, "--")


def trained(path: Path, *options: str | Path, by: Sequence[str] = ()) -> Run:
    """A new run that is trained to its end."""
    code, _, errors = said(
        *by, "train", *SMALL, "--out", path.parent, "--name", path.name, *options
    )
    assert code == 0, errors
    return Run.load(path)


def resumed(run: Run, *options: str, by: Sequence[str] = ()) -> Run:
    """A run that is trained on to its end."""
    code, _, errors = said(*by, "resume", run.path, *options)
    assert code == 0, errors
    return Run.load(run.path)


def arrays(run: Run) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by its name."""
    folder = checkpoint.latest(run.checkpoints) / "arrays"
    return {
        str(file.parent.relative_to(folder)): ts.open(
            {"driver": "zarr3", "kvstore": f"file://{file.parent}/"}
        )
        .result()
        .read()
        .result()
        for file in sorted(folder.rglob("zarr.json"))
    }


def numbers(line: dict) -> np.ndarray:
    """All numbers of a line of metrics; NaN for an empty bin of noise."""
    values = itertools.chain(*(v if isinstance(v, list) else [v] for v in line.values()))
    return np.array([np.nan if value is None else value for value in values], float)


CLOSE = 24 * 4 * 2**-23
"""The relative deviation of four roundings at each of 24 steps, from sums over a batch in another order."""


def same(run: Run, alone: Run) -> None:
    """The two are one training, but for the order in which sums over a batch are taken."""
    assert run.step == alone.step
    ours, theirs = arrays(run), arrays(alone)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        if np.issubdtype(array.dtype, np.integer):
            np.testing.assert_array_equal(ours[name], array, name)
        elif "optimizer_state" not in name:
            # Ten times as far for weights that began at zero: where a gradient nearly cancels, Adam makes a
            # step of full length of what is left.
            deviation = np.linalg.norm(ours[name] - array) / max(np.linalg.norm(array), 1e-9)
            assert deviation < 10 * CLOSE, (name, deviation)
    for mine, other in zip(without_clock(run), without_clock(alone), strict=True):
        assert mine.keys() == other.keys()
        np.testing.assert_allclose(numbers(mine), numbers(other), rtol=CLOSE, atol=1e-6)


def lines_of(path: Path) -> int:
    """The last whole step in a run's metrics; 0 before there is one."""
    try:
        return Run.load(path).metrics[-1]["step"]
    except (IndexError, UsageError):
        return 0


class Job:
    """The processes of one command, each with its own errors."""

    def __init__(self, *commands: Sequence[str | Path], **own: Sequence[Any]) -> None:
        """Each has a command of its own, or all have one; `own` are arguments of `Popen` for each."""
        port, count = free_port(), max(2, len(commands))
        self.processes = [
            subprocess.Popen(
                [*SCMKIT, *map(str, commands[i % len(commands)])],
                env=environment(i, count, 1, port),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **{name: given[i] for name, given in own.items()},
            )
            for i in range(count)
        ]

    def at(self, path: Path, step: int) -> "Job":
        """This job, once a run has come to a step."""
        until = time.monotonic() + TIMEOUT
        while lines_of(path) < step:
            assert all(p.poll() is None for p in self.processes), self.end(10)
            assert time.monotonic() < until
            time.sleep(0.1)
        return self

    def end(self, within: float = TIMEOUT, who: Sequence[int] = (0, 1)) -> list[tuple[int, str]]:
        """The exit codes of some, and the errors that they tell; then all are gone."""
        until, ended = time.monotonic() + within, []
        try:
            for i in who:
                self.processes[i].wait(max(0.1, until - time.monotonic()))
        finally:
            for i, process in enumerate(self.processes):
                process.kill()
                _, errors = process.communicate()
                told = [line + "\n" for line in errors.splitlines() if line.startswith("error: ")]
                if i in who:
                    ended.append((process.returncode, "".join(told)))
        return ended
