"""Whole trainings by several processes are the training of one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_distributions import Installer
from small_runs import go, recipe
from training_runs import DIFFUSION, SMALL, launched, resumed, said, same, trained

from scmkit import Run
from scmkit.runs import checkpoint


def test_two_processes_train_as_one(tmp_path):
    given: dict[str, Any] = {
        "mlp.width": 128,
        "train.steps": 3,
        "train.log_every": 1,
        "train.sample_every": 3,
    }
    alone = go(recipe("trigflow", "diffusion", **given), tmp_path / "alone")
    made = ("train", "--recipe", alone.path / "recipe.json", "--out", tmp_path, "--name", "two")
    code, _, errors = said(*launched(2), *made, "--mesh", "fsdp=2")
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
    assert said(*drawn)[0] == 0
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
    code, _, errors = said(*launched(2), *command, "--name", "r")
    assert code == 1
    [line] = [line for line in errors.splitlines() if "error: " in line]
    assert line.startswith("error: r: the loss of player 'critic' is nan at step 5; the last good")
    assert (tmp_path / "r/nonfinite/00000005.json").is_file()
    assert said("replay", tmp_path / "r")[0] == 0


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
    code, _, errors = said(*launched(2), "train", *SMALL, *options, *named, "--mesh", "fsdp=2")
    assert code == 75, errors
    run = Run.load(tmp_path / "r")
    assert 4 <= run.step < 10
    assert digest(run, "fsdp=1", 1) == digest(run, "fsdp=8", 8) == digest(run, "data=4,fsdp=2", 8)
    code, _, errors = said("resume", run.path)
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
        assert said(*by, *drawing, tmp_path / f"{name}.npy")[0] == 0
    one, two, four = (np.load(tmp_path / f"{name}.npy") for name in ("one", "two", "four"))
    np.testing.assert_allclose(two, one, atol=1e-5)
    np.testing.assert_allclose(four, one, atol=1e-5)
    scoring = ("eval", run.path, "--steps", "2", "--n", "64", "--features", "data", "--json")
    scores = []
    for by in ((), launched(2)):
        code, output, errors = said(*by, *scoring)
        assert code == 0, errors
        scores.append([json.loads(line) for line in output.splitlines()])
    assert len(scores[0]) == len(scores[1])
    for mine, other in zip(*scores, strict=True):
        assert mine["name"] == other["name"]
        for name, value in mine.items():
            if isinstance(value, float) and "seconds" not in name:
                assert value == pytest.approx(other[name], rel=1e-4), name
