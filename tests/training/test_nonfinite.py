"""Faulty steps: nothing of them stays, they are reported, and they can be seen again."""

import json
import math
import os
import shutil
import signal
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_distributions import Installer
from scmkit_cli.main import main
from scmkit_plugins.datasets import digits
from small_runs import Reporter, go, recipe, state_bytes, without_clock

from scmkit import Run, resume
from scmkit.errors import NonFiniteError, PluginError, Preempted, RunError
from scmkit.plugin import NoOptions
from scmkit.runs import checkpoint
from scmkit.training.faults import replay
from scmkit.training.guarded import unless
from scmkit.training.loop import Trainer

FAULTY = """
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from dataclasses import dataclass, replace
from jaxtyping import Array
from scmkit.interfaces import AbstractLoss, AbstractTangentEstimator, LossOutput
from scmkit.plugin import Plugin, Slot
from scmkit_plugins.methods.diffusion import Options as Base, build_data_tangent as build_tangent, build_loss


@dataclass(frozen=True)
class Options(Base):
    at: tuple[int, ...] = (10,)
    gradient: bool = False
    metric: bool = False
    percent: int = 100
    within: bool = False


class Within(AbstractTangentEstimator):
    inner: AbstractTangentEstimator

    def __call__(self, point):
        def at(tangent, x):
            return tangent(eqx.tree_at(lambda p: p.x_t, point, x))

        asked = eqx.filter_jit(at)
        return jax.jvp(lambda x: asked(self.inner, x), (point.x_t,), (point.x_t,))[0]

    def advance(self, point, r):
        return self.inner.advance(point, r)


class Faulty(AbstractLoss):
    # Arrays, so that one compiled program serves every test.
    inner: AbstractLoss
    at: Array
    gradient: Array
    metric: Array
    percent: Array
    within: bool = eqx.field(static=True)

    def __call__(self, model, scene, sample, *, key):
        asked = replace(scene, tangent=Within(scene.tangent)) if self.within else scene
        out = self.inner(model, asked, sample, key=key)
        bad = jnp.any(scene.step == self.at - 1)
        bad &= jr.randint(jr.fold_in(key, 7), (), 0, 100) < self.percent
        metrics = {n: jnp.where(bad & self.metric, jnp.nan, m) for n, m in out.metrics.items()}
        bad &= ~self.metric
        zero = out.value - jax.lax.stop_gradient(out.value)
        value = out.value + jnp.sqrt(jnp.where(bad & self.gradient, zero, 1.0))
        value = jnp.where(bad & ~self.gradient, jnp.nan, value)
        return LossOutput(value, metrics, out.ratio)


def build(c, context, *, key):
    at = jnp.zeros(20, int).at[: len(c.at)].set(jnp.array(c.at))
    arrays = at, jnp.array(c.gradient), jnp.array(c.metric), jnp.array(c.percent)
    return Faulty(build_loss(c, context, key=key), *arrays, c.within)


plugin = Plugin(
    name="faulty",
    summary="fails at some steps",
    provides={Slot.tangent: build_tangent, Slot.loss: build},
    config=Options,
    makes="diffusion",
)
"""


@pytest.fixture(scope="module", autouse=True)
def faulty(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        Installer(tmp_path_factory.mktemp("site"), monkeypatch)(
            "faulty-pack", {"faulty": "plugin"}, source=FAULTY
        )
        yield


def composed(mode="stop", **settings):
    """The picture at the end alone: this is about the steps."""
    given = {"train.on_nonfinite": mode, "train.sample_every": 1000, "train.checkpoint_every": 5}
    return recipe(
        "trigflow", "faulty", "ddim", **given | {"train.steps": 12, "faulty.at": "6"} | settings
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that met a loss that is not finite at step 6."""
    path = tmp_path_factory.mktemp("stopped") / "r"
    with pytest.raises(NonFiniteError, match=r"the loss is nan at step 6; the last") as e:
        go(composed(), path)
    return path, str(e.value)


def check(path, *, gradient):
    """The report says what `replay` finds, and that what it should."""
    report = json.loads((path / "nonfinite" / "00000006.json").read_text())
    fault = replay(path)
    assert fault.step == 6
    assert len(fault.culprits) == 16
    assert math.isfinite(fault.loss) == gradient
    for shown, sample in zip(report["samples"], fault.samples, strict=True):
        assert shown["index"] == sample["index"]
        assert float(shown["time"]) == sample["time"]
        np.testing.assert_allclose(sample["ratio"], 0.5 * math.tan(sample["time"]), rtol=1e-4)
        assert math.isfinite(sample["parts"]["loss"]) == gradient
        assert math.isfinite(sample["parts"]["gradient"]) != gradient
    return fault


def test_stop_reports_the_step_and_replays_it(stopped):
    path, message = stopped
    assert f"scmkit replay {path} --step 6" in message
    for sample in check(path, gradient=False).samples:
        assert all(math.isfinite(sample["parts"][n]) for n in ("network", "tangent", "df/dt"))


def test_a_gradient_is_seen_in_every_precision_and_micro_batch(tmp_path):
    """Also where the tangent is asked for within jit and jvp, which keeps its parts from the report."""
    variant = {"train.accumulate": 4, "train.precision": "bfloat16", "faulty.gradient": True}
    with pytest.raises(NonFiniteError, match=r"the gradient norm is (nan|inf) at step 6; the last"):
        go(composed(**variant, **{"faulty.within": True}), tmp_path / "r")
    for sample in check(tmp_path / "r", gradient=True).samples:
        assert set(sample["parts"]) == {"data", "mse", "loss", "gradient", "weights"}


def test_the_state_of_a_fault_is_the_one_before_it(stopped):
    """Which is that of the checkpoint of step 5."""
    before = Run.load(stopped[0])
    assert before.step == 5
    saved = stopped[0] / "nonfinite" / "00000006"
    for name, content in state_bytes(before).items():
        assert (saved / name).read_bytes() == content, name


@pytest.mark.parametrize("form", ["cpu", "default"])
@pytest.mark.parametrize("hold", [True, False])
def test_each_backends_form_of_the_guard(monkeypatch, form, hold):
    """That for other backends is compiled for this one, too."""

    def pick(state, **forms):
        return forms[form](state)

    monkeypatch.setattr(jax.lax, "platform_dependent", pick)
    state = {"step": jnp.asarray(3), "weights": jnp.ones(4), "activation": jnp.tanh}

    def advance(state):
        moved = jnp.asarray([1.0, jnp.nan, 2.0, 3.0])
        return state | {"step": state["step"] + 1, "weights": moved}

    got = eqx.filter_jit(lambda hold: unless(hold, advance, state))(jnp.asarray(hold))
    wanted = state if hold else advance(state)
    assert got["activation"] is jnp.tanh
    assert int(got["step"]) == int(wanted["step"])
    np.testing.assert_array_equal(got["weights"], wanted["weights"])


def test_a_gpu_waits_for_no_loop_of_the_guard():
    def guarded(hold, step):
        return unless(hold, lambda step: step + 1, step)

    traced = jax.jit(guarded).trace(jnp.asarray(True), jnp.asarray(3))
    texts = [traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")]
    assert ["while" in text for text in texts] == [True, False]
    assert ["select" in text for text in texts] == [False, True]


def once(do):
    """A step may be passed twice, and a second signal ends the process at once."""
    left = [do]
    return lambda: left and left.pop()()


def test_only_the_offending_samples_are_named(tmp_path):
    with pytest.raises(NonFiniteError):
        go(composed(**{"faulty.percent": 20}), tmp_path / "r")
    assert 0 < len(replay(tmp_path / "r").culprits) < 16


@pytest.mark.parametrize(
    ("mode", "at", "signalled"),
    [
        ("rollback", "3,4,8,12", 6),
        pytest.param("skip", "3,4,12", 6, marks=pytest.mark.slow),
        pytest.param("rollback", "4", 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_with_faults_resumes_bit_for_bit(tmp_path, mode, at, signalled):
    """With faults in flight, at a line of metrics, and at the end; stopped by a signal behind or before them.

    What is rolled back to is not what was saved at the signal, even where one checkpoint is kept.
    """
    percent = 1 if mode == "rollback" else 100
    given = {"faulty.at": at, "faulty.percent": percent, "train.seed": 3, "train.keep": 1}
    made = composed(mode, **given)
    straight = go(made, tmp_path / "a" / "run")
    path = tmp_path / "b" / "run"
    trigger = Reporter(("run", signalled), once(lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Preempted):
        go(made, path, trigger)
    stopped = resume(path, reporter=Reporter())
    assert state_bytes(stopped) == state_bytes(straight)
    assert without_clock(stopped) == without_clock(straight)
    assert [line["step"] for line in straight.metrics] == [4, 8, 12]
    if mode == "skip":
        assert [line.get("skipped", 0) for line in straight.metrics] == [2, 0, 1]
    else:
        assert (path / "nonfinite").exists()


def test_a_metric_that_is_not_finite_is_no_fault(tmp_path):
    """It is in no mean, and neither keeps checkpoints from being saved nor changes what is resumed."""
    made = composed(**{"faulty.metric": True, "train.checkpoint_every": 7})
    straight = go(made, tmp_path / "a" / "run")
    path = tmp_path / "b" / "run"
    with pytest.raises(Preempted):
        go(made, path, Reporter(("run", 6), once(lambda: os.kill(os.getpid(), signal.SIGTERM))))
    stopped = resume(path, reporter=Reporter())
    assert state_bytes(stopped) == state_bytes(straight)
    assert without_clock(stopped) == without_clock(straight)
    assert [line["mse"] is None for line in straight.metrics] == [False, True, False]
    assert all(math.isfinite(line["loss"]) for line in straight.metrics)


@pytest.fixture
def ensemble(tmp_path, monkeypatch):
    """The options of a method whose second player fails, beside followers and stages."""
    Installer(tmp_path / "other", monkeypatch)("ensemble-pack", {"ensemble": "ensemble:plugin"})

    def composed(mode, at, percent=100):
        given = {"on_nonfinite": mode, "sample_every": 1000, "checkpoint_every": 1, "keep": 0}
        settings = {f"train.{name}": value for name, value in given.items()}
        return recipe(
            *("trigflow", "ensemble"),
            **settings | {"train.steps": 9, "ensemble.at": at, "ensemble.percent": percent},
        )

    return composed


def arrays_at(folder):
    """Every array of a checkpoint but the step."""
    files = sorted(p for p in (folder / "arrays").rglob("*") if p.is_file())
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
    for owner in ("generator", "critic"):
        for part in ("model", "loss", "optimizer_state", "ema", "followers"):
            assert any(n.startswith(f"arrays/players/{owner}/{part}") for n in found), (owner, part)
    return {name: content for name, content in found.items() if not name.startswith("arrays/step")}


@pytest.mark.slow
def test_a_fault_of_a_second_player_stops_all(ensemble, tmp_path):
    with pytest.raises(
        NonFiniteError, match="the loss of player 'critic' is nan at step 5; the last"
    ):
        go(ensemble("stop", "5"), tmp_path / "r")
    before = arrays_at(tmp_path / "r" / "checkpoints" / "00000004")
    assert arrays_at(tmp_path / "r" / "nonfinite" / "00000005") == before
    assert all(math.isnan(value) for value in replay(tmp_path / "r").turns["critic/loss"])


@pytest.mark.slow
def test_a_fault_of_a_second_player_skips_all(ensemble, tmp_path):
    """At the end of a stage, which then ends with the batch that was skipped."""
    run = go(ensemble("skip", "3,4"), tmp_path / "r")
    at = {
        step: arrays_at(run.checkpoints / f"{step:08d}")
        for step in checkpoint.steps(run.checkpoints)
    }
    assert list(at) == list(range(1, 10))
    for step in range(2, 10):
        changed = {name for name in at[step] if at[step][name] != at[step - 1][name]}
        owners = {name.split("/")[2] for name in changed}
        assert owners == (set() if step in (3, 4) else {"generator", "critic", "mean"})
    assert sum(line.get("skipped", 0) for line in run.metrics) == 2


@pytest.mark.slow
def test_a_fault_of_a_second_player_rolls_all_back(ensemble, tmp_path):
    """Back in the stage before; where a run goes on from is the checkpoint, bit for bit."""
    began, made = {}, ensemble("rollback", "7", percent=2)

    def note(trainer, log, *, leave):
        stands = look(trainer, log, leave=leave)
        if not stands:
            began[trainer.step] = jax.device_get(eqx.filter(trainer.state, eqx.is_array))
        return stands

    look = Trainer._look
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_look", note)
        run = go(made, tmp_path / "a" / "run")
    [(step, state)] = began.items()
    assert step == 6
    saved = checkpoint.restore(run.checkpoints / f"{step:08d}", state)
    assert eqx.tree_equal(saved, state) is True
    path = tmp_path / "b" / "run"
    with pytest.raises(Preempted):
        go(made, path, Reporter(("run", 7), once(lambda: os.kill(os.getpid(), signal.SIGTERM))))
    stopped = resume(path, reporter=Reporter())
    assert state_bytes(stopped) == state_bytes(run)


@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_too_many_faults_in_a_row_stop(tmp_path, mode):
    at = ",".join(map(str, range(3, 13)))
    given = {"faulty.at": at, "train.nonfinite_limit": 3, "train.checkpoint_every": 8}
    with pytest.raises(NonFiniteError, match=r"3 faults in a row; nothing was saved yet"):
        go(composed(mode, **given), tmp_path / "r")


def test_rollback_takes_other_noise(tmp_path):
    reporter = Reporter()
    made = composed("rollback", **{"faulty.percent": 5, "train.seed": 0})
    run = go(made, tmp_path / "r", reporter)
    back = [m for m in reporter.messages if "back to step 5" in m]
    saved = checkpoint.metadata(checkpoint.latest(run.checkpoints))
    assert saved["faults"]["rollbacks"] == len(back) == 1
    assert saved["loader"]["position"] == 16 * 13


def test_nothing_to_replay(stopped, tmp_path, monkeypatch, capsys):
    """`stopped` holds the recipe of a run that met no fault, with its checkpoints but no report."""
    path = tmp_path / "r"
    shutil.copytree(stopped[0], path, ignore=shutil.ignore_patterns("nonfinite"))
    with pytest.raises(RunError, match="it never met one"):
        replay(path)
    with pytest.raises(RunError, match="no faulty step 7 to replay; it has 6"):
        replay(stopped[0], 7)
    monkeypatch.setattr(sys, "argv", ["scmkit", "replay", str(path)])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"error: run '{path}' holds no faulty step to replay; it never met one\n"


WRONG = """
import equinox as eqx
import jax.numpy as jnp
from scmkit.interfaces import AbstractLoss, AbstractNetwork, AbstractTangentEstimator
from scmkit.plugin import Plugin, Slot
from scmkit_plugins.methods.diffusion import Options, build_data_tangent, build_loss


def helper(out):
    LINE


class WrongLoss(AbstractLoss):
    inner: AbstractLoss

    def __call__(self, model, scene, sample, *, key):
        return helper(self.inner(model, scene, sample, key=key))


plugin = Plugin(
    name="wrong",
    summary="fails",
    provides={
        Slot.tangent: build_data_tangent,
        Slot.loss: lambda c, x, *, key: WrongLoss(build_loss(c, x, key=key)),
    },
    config=Options,
    makes="diffusion",
)
"""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('raise KeyError("gone")', "failed: KeyError: 'gone' (try: pip install --upgrade"),
        ("return out.value + jnp.zeros((3, 0)) @ jnp.ones(1)", "failed: TypeError: "),
        # Not through the class's __init__, where jaxtyping's check of the tests would come first.
        (
            "return eqx.tree_at(lambda o: o.value, out, jnp.zeros(3))",
            "returned float32(3,) from its loss, which must be float32() (try: pip install --upgrade",
        ),
        (
            "return eqx.tree_at(lambda o: o.value, out, out.value.astype(jnp.bfloat16))",
            "returned bfloat16() from its loss, which must be float32() (try: pip install --upgrade",
        ),
    ],
)
def test_a_plugin_that_fails_in_training_is_named(tmp_path, monkeypatch, line, wanted):
    source = WRONG.replace("LINE", line)
    Installer(tmp_path / "other", monkeypatch)("wrong-pack", {"wrong": "plugin"}, source=source)
    with pytest.raises(PluginError) as e:
        go(recipe("trigflow", "wrong"), tmp_path / "r")
    assert str(e.value).startswith("plugin 'wrong' of wrong-pack 1.0 " + wanted)
    assert "wrong-pack" in str(e.value).split("--upgrade", 1)[1]
    assert "jaxtyping" not in str(e.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_the_command_replays_a_student_with_its_teacher_and_labels(tmp_path, monkeypatch, capsys):
    source = FAULTY.replace("scmkit_plugins.methods.diffusion", "scmkit_plugins.methods.scd")
    source = source.replace('name="faulty"', 'name="student", starts_from="teacher"')
    source = source.replace('makes="diffusion"', 'makes="consistency"')
    source = source.replace("build_data_tangent as build_tangent", "build_tangent")
    source = source.replace("build_loss,", "build_guided_loss as build_loss,")
    Installer(tmp_path / "other", monkeypatch)("own", {"student": "plugin"}, source=source)
    small = {"train.steps": 2, "train.sample_every": 1000}
    small |= {"mlp.depth": 1, "train.batch_size": 4}
    source = go(recipe("trigflow", "diffusion", data="digits", **small), tmp_path / "t")
    made = recipe(
        *("trigflow", "student"), data="digits", teacher=source.path, **small, **{"student.at": "1"}
    )
    with pytest.raises(NonFiniteError, match="the loss is nan at step 1; nothing was saved yet"):
        go(made, tmp_path / "r")
    monkeypatch.setattr(sys, "argv", ["scmkit", "replay", str(tmp_path / "r")])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    fault = replay(tmp_path / "r")
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("step 1: loss nan, gradient norm ")
    assert first.endswith("; the first that is not finite: loss is nan")
    assert second == "4 of 4 samples are not finite"
    indices = np.array([sample["index"] for sample in fault.samples])
    _, labels = digits.build_dataset(NoOptions()).read("train", indices)
    for line, sample, label in zip(rest, fault.samples, labels, strict=True):
        assert line.strip() == (
            f"sample {sample['index']}, label {label}: t {sample['time']:.6g}, "
            f"sigma/alpha {sample['ratio']:.6g}: loss nan"
        )
        assert math.isfinite(sample["parts"]["tangent"])
