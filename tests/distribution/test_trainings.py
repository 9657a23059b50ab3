"""Whole trainings by several processes: the run of one process, whatever befalls them."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
from fake_distributions import Installer
from small_runs import without_clock

from scmkit import Run
from scmkit.distribution.launch import environment, free_port
from scmkit.runs import checkpoint

SCMKIT = (sys.executable, "-P", "-c", "from scmkit_cli.main import main; main()")

SMALL = [
    *("--data", "digits", "--batch-size", "16", "--set", "train.log_every=1"),
    # Some arrays of this width are divided.
    *("--set", "mlp.width=256", "--set", "mlp.depth=1", "--plugin", "mlp"),
]

DIFFUSION = ("--plugin", "trigflow", "--plugin", "diffusion", "--plugin", "ddim")

TIMEOUT = 400


def told(*command: str | Path, env: dict[str, str] | None = None) -> tuple[int, str, str]:
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


def trained(path: Path, *options: str, by: Sequence[str] = ()) -> Run:
    """A new run that is trained to its end."""
    code, _, errors = told(
        *by, "train", *SMALL, "--out", path.parent, "--name", path.name, *options
    )
    assert code == 0, errors
    return Run.load(path)


def resumed(run: Run, *options: str, by: Sequence[str] = ()) -> Run:
    """A run that is trained on to its end."""
    code, _, errors = told(*by, "resume", run.path, *options)
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


def same(run: Run, alone: Run) -> None:
    """The two are one training, but for the order in which sums over a batch are taken.

    That costs a few roundings (2^-23) a step, which Adam's quotients hand on at the same relative size.
    """
    steps = alone.step
    assert run.step == steps
    close = {"rtol": steps * 4 * 2**-23}
    for mine, other in zip(without_clock(run), without_clock(alone), strict=True):
        assert mine.keys() == other.keys()
        np.testing.assert_allclose(numbers(mine), numbers(other), atol=1e-7, **close)
    ours, theirs = arrays(run), arrays(alone)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        if np.issubdtype(array.dtype, np.integer):
            np.testing.assert_array_equal(ours[name], array, name)
        elif "/model/" in name or "/ema/" in name or "/followers/" in name:
            least = close["rtol"] * np.max(np.abs(array), initial=0)
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=least, err_msg=name)


def test_two_processes_train_as_one(tmp_path):
    options = (*DIFFUSION, "--steps", "3", "--set", "train.sample_every=3")
    alone = trained(tmp_path / "alone", *options)
    together = trained(tmp_path / "together", *options, "--mesh", "fsdp=2", by=launched(2))
    same(together, alone)
    weight = checkpoint.latest(together.checkpoints) / "arrays/players/generator/model"
    assert [f for f in weight.rglob("0.1") if f.is_file()]  # Each wrote a part.
    assert sorted(os.listdir(together.path)) == sorted(os.listdir(alone.path))
