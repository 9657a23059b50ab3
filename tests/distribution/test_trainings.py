"""Whole trainings by several processes: the run of one process, whatever befalls them."""

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from fake_distributions import Installer
from small_runs import go, recipe, without_clock

from scmkit import Run
from scmkit.data import StoreWriter
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


def trained(path: Path, *options: str | Path, by: Sequence[str] = ()) -> Run:
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


def test_two_processes_train_as_one(tmp_path):
    given = {"mlp.width": 128, "train.steps": 3, "train.log_every": 1, "train.sample_every": 3}
    alone = go(recipe("trigflow", "diffusion", **given), tmp_path / "alone")
    made = ("train", "--recipe", alone.path / "recipe.json", "--out", tmp_path, "--name", "two")
    code, _, errors = told(*launched(2), *made, "--mesh", "fsdp=2")
    assert code == 0, errors
    together = Run.load(tmp_path / "two")
    same(together, alone)
    weights = checkpoint.latest(together.checkpoints) / "arrays/players/generator/model"
    assert [f for f in weights.rglob("*") if f.name in ("0.1", "1.0")]  # Each wrote a part.
    assert sorted(os.listdir(together.path)) == sorted(os.listdir(alone.path))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("teacher") / "t", *DIFFUSION, "--steps", "4")


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """A method with a second player that can fail, followers of both, a memory, and stages."""
    site = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as monkeypatch:
        Installer(site, monkeypatch)("ensemble-pack", {"ensemble": "ensemble:plugin"})
        support = Path(__file__).parents[1] / "support"
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (site, support))))
        yield ("--plugin", "ensemble", "--steps", "9", "--set", "train.checkpoint_every=3")


METHODS = {
    "teacher-along": ("--plugin", "scd", "--set", "train.sample_every=4"),
    "guided": ("--plugin", "scd", "--set", "scd.guidance=1.5"),
    "players": ("--plugin", "dmd2", "--set", "dmd2.gan=hinge", "--set", "dmd2.updates=2"),
    "memory": ("--plugin", "drifting"),
    "groups": ("--plugin", "imm"),
    "coupling": ("--plugin", "flow-matching", "--plugin", "diffusion", "--plugin", "minibatch-ot"),
}

TAUGHT = ("guided", "players")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method(method, teacher, tmp_path):
    options = [*METHODS[method], "--steps", "6"]
    if method in TAUGHT:
        options += ["--teacher", str(teacher.path)]
    alone = trained(tmp_path / "alone", *options)
    two = trained(tmp_path / "two", *options, "--mesh", "fsdp=2", by=launched(2))
    same(two, alone)
    four = trained(tmp_path / "four", *options, "--mesh", "data=2,fsdp=2", by=launched(2, 2))
    same(four, alone)
    if method == "teacher-along":
        same(Run.load(two.path / "teacher"), Run.load(alone.path / "teacher"))


@pytest.mark.slow
def test_stored_pairs(teacher, tmp_path):
    pairs = tmp_path / "pairs"
    drawn = ("data", "pairs", teacher.path, pairs, "--n", "64", "--steps", "4", "--sampler", "ddim")
    assert told(*drawn)[0] == 0
    options = ("--plugin", "reflow", "--plugin", "stored", "--data", pairs, "--steps", "6")
    options = (*options, "--teacher", teacher.path)
    alone = trained(tmp_path / "alone", *options)
    same(trained(tmp_path / "two", *options, "--mesh", "fsdp=2", by=launched(2)), alone)


@pytest.mark.slow
@pytest.mark.parametrize("options", [("accumulate=4",), ("on_nonfinite=skip", "at=5")], ids=str)
def test_players_followers_memory_and_stages(options, ensemble, tmp_path):
    given = [f"{'ensemble' if o.startswith('at') else 'train'}.{o}" for o in options]
    settings = [word for one in given for word in ("--set", one)]
    alone = trained(tmp_path / "alone", *ensemble, *settings)
    together = trained(tmp_path / "two", *ensemble, *settings, "--mesh", "fsdp=2", by=launched(2))
    same(together, alone)
    reports = [sorted(p.name for p in run.path.glob("nonfinite/*")) for run in (together, alone)]
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_two_go_back_together(ensemble, tmp_path):
    rollback = ("train.on_nonfinite=rollback", "ensemble.at=3,5,8", "ensemble.percent=3")
    settings = [word for one in rollback for word in ("--set", one)]
    alone = trained(tmp_path / "alone", *ensemble, *settings)
    together = trained(tmp_path / "two", *ensemble, *settings, "--mesh", "fsdp=2", by=launched(2))
    same(together, alone)
    saved = [checkpoint.metadata(checkpoint.latest(r.checkpoints)) for r in (alone, together)]
    assert saved[0]["faults"] == saved[1]["faults"]
    assert saved[0]["faults"]["rollbacks"] > 0


@pytest.mark.slow
def test_a_fault_ends_all_once_it_is_reported(ensemble, tmp_path):
    command = ("train", *SMALL, *ensemble, "--set", "ensemble.at=5", "--out", tmp_path)
    code, _, errors = told(*launched(2), *command, "--name", "r")
    assert code == 1
    [line] = [line for line in errors.splitlines() if "error: " in line]
    assert line.startswith("error: r: the loss of player 'critic' is nan at step 5; the last good")
    assert (tmp_path / "r/nonfinite/00000005.json").is_file()
    assert told("replay", tmp_path / "r")[0] == 0


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


LONG = (*DIFFUSION, "--steps", "100000", "--set", "train.checkpoint_every=20")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("who", [0, 1])
def test_a_lost_process_ends_the_other_within_a_minute(who, number, tmp_path):
    job = Job(("train", *SMALL, *LONG, "--out", tmp_path, "--name", "r")).at(tmp_path / "r", 25)
    pid = job.processes[who].pid
    os.kill(pid, number)
    [(code, error)] = job.end(60, [1 - who])
    assert code == 75
    assert f"error: process {who} (host " in error
    assert f", pid {pid}) has not been heard of for " in error
    assert error.endswith(f"continue with `scmkit resume {tmp_path / 'r'}`\n")
    assert error.count("\n") == 1
    run = Run.load(tmp_path / "r")
    assert checkpoint.problem(checkpoint.latest(run.checkpoints)) is None
    if who == 0:
        run = resumed(run, "--steps", str(run.step + 30), by=launched(2))
        assert [line["step"] for line in run.metrics] == list(range(1, run.step + 1))


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_sigterm_to_one_stops_all_at_one_step(who, tmp_path):
    job = Job(("train", *SMALL, *LONG, "--out", tmp_path, "--name", "r")).at(tmp_path / "r", 25)
    job.processes[who].terminate()
    (code, error), other = job.end(60)
    step = Run.load(tmp_path / "r").step
    assert code == 75
    assert error.startswith(f"error: stopped at step {step}, saved to ")
    assert other == (75, "")
    assert lines_of(tmp_path / "r") == step


@pytest.mark.slow
def test_ctrl_c_stops_all(tmp_path):
    command = (*launched(2), "train", *SMALL, *LONG, "--out", tmp_path, "--name", "r")
    launching = subprocess.Popen(
        [*SCMKIT, *map(str, command)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while lines_of(tmp_path / "r") < 25:
        assert launching.poll() is None
        time.sleep(0.1)
    launching.send_signal(signal.SIGINT)
    _, errors = launching.communicate(timeout=60)
    assert launching.returncode == 130
    assert errors.count("error: ") == 1


STOPPING = """
import os, signal
from scmkit.interfaces import AbstractTracker
from scmkit.plugin import NoOptions, Plugin, Slot

class Stopping(AbstractTracker):
    def __init__(self, directory):
        self.file = directory / "told"

    def log(self, step, metrics):
        with self.file.open("a") as file:
            print(step, file=file)
        if step in (4, 10):
            os.kill(os.getpid(), signal.SIGTERM)

    def image(self, step, name, pixels): ...
    def close(self): ...

def build(config: NoOptions, directory):
    return Stopping(directory)

plugin = Plugin("stopping", "ends a training", provides={Slot.tracker: build})
"""

DIGEST = """
import hashlib, sys
import jax, jax.random as jr, numpy as np
from scmkit import Run, build
from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import mesh_of
from scmkit.runs import checkpoint
from scmkit.runs.arrays import named_leaves
from scmkit.training.setup import Beginning
run = Run.load(sys.argv[1])
layout = Layout(mesh_of(sys.argv[2]))
shapes = Beginning(run.recipe, build(run.recipe, key=jr.key(0)), layout).shapes()
found, state = hashlib.sha256(), checkpoint.restore(checkpoint.latest(run.checkpoints), shapes)
for name, leaf in named_leaves(layout.local(state)):
    if isinstance(leaf, jax.Array):
        found.update(f"{name} {leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
print(len(jax.devices()), found.hexdigest())
"""


def digest(run: Run, mesh: str, devices: int) -> str:
    """The SHA-256 of a run's state, read on so many devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", DIGEST, run.path, mesh]
    env = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there, found = done.stdout.split()
    assert int(there) == devices
    return found


@pytest.mark.slow
def test_two_then_one_then_four_processes_train_as_one(tmp_path, monkeypatch):
    Installer(tmp_path / "site", monkeypatch)("stopping", {"stopping": "plugin"}, source=STOPPING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    options = (*DIFFUSION, "--steps", "16", "--set", "train.sample_every=100")
    alone = trained(tmp_path / "alone", *options)
    named = ("--out", tmp_path, "--name", "r", "--plugin", "stopping")
    code, _, errors = told(*launched(2), "train", *SMALL, *options, *named, "--mesh", "fsdp=2")
    assert code == 75, errors
    run = Run.load(tmp_path / "r")
    assert 4 <= run.step < 10
    assert digest(run, "fsdp=1", 1) == digest(run, "fsdp=8", 8) == digest(run, "data=4,fsdp=2", 8)
    code, _, errors = told("resume", run.path)
    assert code == 75, errors
    assert 10 <= run.step < 16
    run = resumed(run, "--mesh", "data=2,fsdp=2", by=launched(4))
    same(run, alone)
    saved = [checkpoint.metadata(checkpoint.latest(r.checkpoints)) for r in (alone, run)]
    assert saved[0]["loader"] == saved[1]["loader"]
    # One process has a tracker.
    assert (run.path / "told").read_text().split() == [str(i) for i in range(1, 17)]


@pytest.mark.slow
def test_samples_and_scores_are_those_of_one(tmp_path):
    run = trained(tmp_path / "r", *DIFFUSION, "--steps", "4")
    for by, name in (((), "one"), (launched(2), "two"), (launched(2, 2), "four")):
        drawing = ("sample", run.path, "--n", "10", "--steps", "4", "--out")
        assert told(*by, *drawing, tmp_path / f"{name}.npy")[0] == 0
    one, two, four = (np.load(tmp_path / f"{name}.npy") for name in ("one", "two", "four"))
    np.testing.assert_allclose(two, one, atol=1e-5)
    np.testing.assert_allclose(four, one, atol=1e-5)
    scoring = ("eval", run.path, "--steps", "2", "--n", "64", "--features", "data", "--json")
    scores = []
    for by in ((), launched(2)):
        code, output, errors = told(*by, *scoring)
        assert code == 0, errors
        scores.append([json.loads(line) for line in output.splitlines()])
    assert len(scores[0]) == len(scores[1])
    for mine, other in zip(*scores, strict=True):
        assert mine["name"] == other["name"]
        for name, value in mine.items():
            if isinstance(value, float) and "seconds" not in name:
                assert value == pytest.approx(other[name], rel=1e-4), name


def test_what_is_wrong_of_all_is_told_once(tmp_path):
    options = (*SMALL, *DIFFUSION, "--batch-size", "60", "--out", tmp_path, "--name", "r")
    code, output, errors = told(*launched(2, 4), "train", *options)
    assert (code, output) == (2, "")
    [line] = [line for line in errors.splitlines() if "error: " in line]
    assert line == (
        "error: train.batch_size=60 does not divide among 8 devices; the nearest sizes that do: 56 and 64"
    )
    assert not (tmp_path / "r").exists()


@pytest.fixture
def command(tmp_path):
    """A short training."""
    given = ("--steps", "6", "--set", "train.sample_every=100", "--out", tmp_path, "--name", "r")
    return ("train", *SMALL, *DIFFUSION, *given)


@pytest.mark.slow
def test_a_usage_error_of_one_ends_all(command):
    job, began = Job(command, (*command, "--stepz", "5")), time.monotonic()
    job.processes[1].wait(60)
    known = time.monotonic()
    (first, silent), (second, error) = job.end(10)
    assert (first, second, silent) == (2, 2, "")
    assert "no such option: --stepz" in error
    assert error.count("\n") == 1
    assert known - began < 50


@pytest.mark.slow
def test_another_recipe_in_one_process_is_refused(command, tmp_path):
    told = Job(command, (*command, "--lr", "0.1")).end()
    assert [code for code, _ in told] == [2, 2]
    assert told[0][1].startswith("error: process 1 has another recipe than process 0; start all")
    assert told[1][1] == ""
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_full_disk_of_one_ends_all(who, command, tmp_path):
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    limits = [little if i == who else None for i in range(2)]
    ended = Job((*command, "--mesh", "fsdp=2"), preexec_fn=limits).end()
    assert [code for code, _ in ended] == [1, 1]
    assert "00000002 cannot be written (" in ended[who][1], ended
    assert [error.count("\n") for _, error in ended] == [1 - who, who], ended
    assert Run.load(tmp_path / "r").step == 0


@pytest.mark.slow
def test_data_that_one_process_lacks_ends_all(command, tmp_path):
    folders = [tmp_path / str(i) for i in range(2)]
    for folder in folders:
        folder.mkdir()
    with StoreWriter(folders[0] / "numbers", shape=(1, 8, 8), dtype="float32") as writer:
        for split in ("train", "test"):
            samples = np.random.default_rng(0).normal(size=(50, 1, 8, 8))
            writer.append(split, samples.astype(np.float32), None)
    ended = Job((*command, "--data", "numbers"), cwd=folders).end()
    assert [code for code, _ in ended] == [2, 2]
    assert ended[0][1] == ""
    assert ended[1][1].startswith("error: process 1 (host ")
    assert ended[1][1].count("\n") == 1


@pytest.mark.slow
def test_a_name_is_made_up_once(tmp_path):
    for number in (1, 2):
        code, _, errors = told(
            *(*launched(2), "train", *SMALL, *DIFFUSION),
            *("--steps", "2", "--out", tmp_path, "--set", "train.sample_every=100"),
        )
        assert code == 0, errors
        runs = [f"digits-trigflow-diffusion-{i:03d}" for i in range(1, number + 1)]
        assert sorted(os.listdir(tmp_path)) == runs
