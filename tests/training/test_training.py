"""Training runs: what they leave behind, how they stop and resume, and what they start from."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_runs import Reporter, go, recipe, state_bytes, without_clock

from scmkit import Run, resume, train
from scmkit.errors import Interrupted, NonFiniteError, Preempted, RunError, UsageError
from scmkit.runs import checkpoint
from scmkit.training import loop, pipeline
from scmkit.training.guarded import guarded
from scmkit.training.loop import Trainer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return go(recipe("trigflow", "diffusion"), tmp_path_factory.mktemp("runs") / "t")


def test_a_run_leaves_everything(teacher):
    assert sorted(p.name for p in teacher.path.iterdir()) == [
        ".lock",
        "checkpoints",
        "metrics.jsonl",
        "recipe.json",
        "samples",
    ]
    assert [line["step"] for line in teacher.metrics] == [4, 8, 12, 16, 20, 24]
    assert checkpoint.steps(teacher.checkpoints) == [16, 24]
    assert sorted(p.name for p in (teacher.path / "samples").iterdir()) == [
        "00000012.png",
        "00000024.png",
    ]
    with Image.open(teacher.path / "samples" / "00000024.png") as picture:
        picture.verify()
    loaded = Run.load(teacher.path)
    assert loaded.recipe == teacher.recipe
    x = jnp.zeros(1)
    np.testing.assert_array_equal(
        loaded.model.denoise(x, jnp.float32(1.0)), teacher.model.denoise(x, jnp.float32(1.0))
    )


def test_metrics_by_noise_level_add_up(teacher):
    line = teacher.metrics[-1]
    assert len(line["mse_by_noise"]) == 4
    present = [m for m in line["mse_by_noise"] if m is not None]
    assert min(present) <= line["mse"] <= max(present)
    assert line["lr"] == pytest.approx(1e-3)


def test_resume_is_bit_for_bit(tmp_path):
    """Stopped before the first step, and in both runs also in the last: all ends as in an undisturbed run."""
    composed = recipe("trigflow", "scd", **{"teacher.train.steps": 16})
    straight = go(composed, tmp_path / "a" / "run")
    path = tmp_path / "b" / "run"
    again = f"continue with `scmkit resume {path}`"
    for at, number, error, wanted in (
        (None, signal.SIGTERM, Preempted, f"stopped at step 0, before another; {again}"),
        (("teacher", 7), signal.SIGTERM, Preempted, again),
        (
            ("teacher", 16),
            signal.SIGINT,
            Interrupted,
            f"stopped at step 0, before another; {again}",
        ),
        (("run", 18), signal.SIGTERM, Preempted, again),
        (("run", 24), signal.SIGTERM, Preempted, f"run '{path}' is finished at step 24, in which"),
    ):
        trigger = Reporter(at, lambda number=number: os.kill(os.getpid(), number))
        advance = partial(resume, path) if path.exists() else partial(go, composed, path)
        with pytest.raises(error, match=re.escape(wanted)):
            advance(reporter=trigger)
    stopped = Run.load(path)
    assert state_bytes(stopped) == state_bytes(straight)
    assert without_clock(stopped) == without_clock(straight)
    teachers = [Run.load(r.path / "teacher") for r in (straight, stopped)]
    assert state_bytes(teachers[0]) == state_bytes(teachers[1])
    assert straight.recipe.teacher == stopped.recipe.teacher


def test_a_seed_is_a_run(tmp_path, teacher):
    again = go(recipe("trigflow", "diffusion"), tmp_path / "again")
    other = go(recipe("trigflow", "diffusion", **{"train.seed": 1}), tmp_path / "other")
    assert state_bytes(again) == state_bytes(teacher)
    assert state_bytes(other) != state_bytes(teacher)


def test_resume_to_more_steps(tmp_path, teacher):
    run = Run.load(shutil.copytree(teacher.path, tmp_path / "r"))
    with pytest.raises(UsageError, match="finished at step 24"):
        resume(run.path, reporter=Reporter())
    longer = resume(run.path, steps=32, reporter=Reporter())
    assert longer.step == 32
    assert [line["step"] for line in longer.metrics][-1] == 32
    straight = go(recipe("trigflow", "diffusion", **{"train.steps": 32}), tmp_path / "s")
    assert state_bytes(longer) == state_bytes(straight)


def test_a_student_starts_from_its_teachers_average(tmp_path, teacher, monkeypatch):
    """Resumed it knows that place: a rollback before the first checkpoint goes back there.

    To load its model takes no teacher.
    """
    began = []

    def trainer(run, assembly, *given, **options):
        began.append(jax.device_get(eqx.filter(assembly.model, eqx.is_array)))
        return Trainer(run, assembly, *given, **options)

    monkeypatch.setattr(pipeline, "Trainer", trainer)
    copy = shutil.copytree(teacher.path, tmp_path / "t")
    run = go(recipe("trigflow", "scd", teacher=copy, **{"train.steps": 1}), tmp_path / "r")
    resume(run.path, steps=2, reporter=Reporter())
    average = jax.device_get(eqx.filter(teacher.model, eqx.is_array))
    assert len(began) == 2
    assert all(eqx.tree_equal(start, average) is True for start in began)
    assert run.recipe.teacher.digest == teacher.digest()
    shutil.rmtree(copy)
    assert jnp.isfinite(Run.load(run.path).model.denoise(jnp.zeros(1), jnp.float32(1.0))).all()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "process", ["flow-matching", pytest.param("edm", marks=SLOW), pytest.param("vp", marks=SLOW)]
)
def test_a_teacher_of_another_process(tmp_path, process):
    few, reporter = {"train.steps": 2}, Reporter()
    other = go(recipe(process, "diffusion", **few), tmp_path / "t")
    run = go(recipe("trigflow", "scd", teacher=other.path, **few), tmp_path / "r", reporter)
    assert run.step == 2
    assert any("fresh weights" in m for m in reporter.messages)


def test_a_changed_teacher_is_noticed(tmp_path, teacher):
    source = Run.load(shutil.copytree(teacher.path, tmp_path / "t"))
    composed = recipe("trigflow", "scd", teacher=source.path)
    trigger = Reporter(("r", 4), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        go(composed, tmp_path / "r", trigger)
    resume(source.path, steps=32, reporter=Reporter())
    with pytest.raises(RunError, match="has changed since"):
        resume(tmp_path / "r", reporter=Reporter())


def test_a_teacher_of_other_data_is_refused(tmp_path, teacher):
    with pytest.raises(UsageError, match=r"shape \(1,\), this run's is \(2,\)"):
        go(recipe("trigflow", "scd", data="two-moons", teacher=teacher.path), tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_non_finite_loss_stops_with_the_step(tmp_path):
    composed = recipe("trigflow", "diffusion", **{"train.lr": 1e30, "train.checkpoint_every": 1})
    with pytest.raises(NonFiniteError, match=r"the loss is (nan|inf) at step \d+; the last good"):
        go(composed, tmp_path / "r")
    steps = checkpoint.steps(tmp_path / "r" / "checkpoints")
    assert steps
    bad = max(steps) + 1
    lines = Run.load(tmp_path / "r").metrics
    assert all(np.isfinite(line["loss"]) for line in lines)
    with pytest.raises(NonFiniteError, match=f"at step {bad};"):
        resume(tmp_path / "r", reporter=Reporter())


def test_taken_and_bad_names(tmp_path, teacher):
    with pytest.raises(UsageError, match="scmkit resume"):
        go(recipe("trigflow", "diffusion"), teacher.path)
    with pytest.raises(UsageError, match="run name"):
        train(recipe("trigflow", "diffusion"), out=tmp_path, name="../x", reporter=Reporter())


def test_a_step_is_compiled_once_and_the_first_rate_is_that_of_steps(tmp_path, monkeypatch):
    """The first step compiles, and takes as long as it likes."""
    compiled = []

    def slowly(step):
        compiled.append(guarded(step))
        step_fn, waits = compiled[-1], [2.0]

        def one(given, state):
            out = step_fn(given, state)
            if waits:
                time.sleep(waits.pop())
            return out

        return one

    monkeypatch.setattr(loop, "guarded", slowly)
    run = go(recipe("trigflow", "diffusion", **{"train.steps": 8}), tmp_path / "r")
    assert run.metrics[0]["steps_per_second"] > 4 / 1.0
    [step_fn] = compiled
    assert step_fn._cached._cache_size() == 1


def test_accumulation_is_the_whole_batch(tmp_path):
    whole = go(recipe("trigflow", "diffusion", **{"train.steps": 4}), tmp_path / "a")
    parts = go(
        recipe("trigflow", "diffusion", **{"train.steps": 4, "train.accumulate": 4}), tmp_path / "b"
    )
    for a, b in zip(
        jax.tree.leaves(eqx.filter(whole.model, eqx.is_array)),
        jax.tree.leaves(eqx.filter(parts.model, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_tensorboard_gets_the_curves(tmp_path):
    run = go(recipe("trigflow", "diffusion", "tensorboard"), tmp_path / "r")
    [events] = (run.path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"mse" in content
    assert b"samples" in content


@pytest.mark.slow
def test_guidance_changes_the_tangent(tmp_path):
    digits = {"train.steps": 2}
    source = go(recipe("trigflow", "diffusion", data="digits", **digits), tmp_path / "t")
    plain, guided = (
        go(
            recipe("trigflow", "scd", data="digits", teacher=source.path, **digits, **extra),
            tmp_path / f"r{i}",
        )
        for i, extra in enumerate(({}, {"scd.guidance": 2.0}))
    )
    assert state_bytes(plain) != state_bytes(guided)


SUPPORT = str(Path(__file__).parents[1] / "support")

ELSEWHERE = """
import jax, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from small_runs import go, recipe, Reporter
from scmkit import resume
assert len(jax.devices()) == int(sys.argv[2])
path, steps = Path(sys.argv[3]), int(sys.argv[4])
resume(path, steps=steps, reporter=Reporter()) if path.exists() else go(
    recipe("trigflow", "diffusion", **{"train.steps": steps}), path)
"""


def elsewhere(path, steps, *, devices=1):
    """Train to so many steps in a process of its own; resumes a run that is there."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-c", ELSEWHERE, SUPPORT, str(devices), str(path), str(steps)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Run.load(path)


def deviation(a, b):
    """The largest relative deviation of `a` from `b` among the arrays of the model, in the maximum norm."""
    pairs = zip(
        *(jax.tree.leaves(eqx.filter(m, eqx.is_inexact_array)) for m in (a, b)), strict=True
    )
    return max(float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y))) for x, y in pairs)


@pytest.mark.slow
def test_two_processes_give_the_same_bits(tmp_path):
    """Weights, moments, averages, step: every byte, of the same seed on the same machine."""
    first, second = (elsewhere(tmp_path / name, 3) for name in "ab")
    assert state_bytes(first) == state_bytes(second)
    assert without_clock(first) == without_clock(second)


@pytest.mark.slow
def test_resume_on_another_number_of_devices(tmp_path, teacher):
    """Data parallel over four devices, then over two: the curve and the weights of one, to rounding."""
    elsewhere(tmp_path / "r", 12, devices=4)
    run = elsewhere(tmp_path / "r", 24, devices=2)
    # The samples and their noise are the same; the sums over the batch are taken in another order, which
    # costs a few roundings (2^-23) a step, and Adam's quotients hand them on at the same relative size.
    # Measured are 7e-7; four roundings for each of the 24 steps are 1.1e-5.
    assert deviation(run.model, teacher.model) < 24 * 4 * 2**-23
    assert len(run.metrics) == 6
    for a, b in zip(teacher.metrics, run.metrics, strict=True):
        assert b["mse"] == pytest.approx(a["mse"], rel=24 * 4 * 2**-23)
