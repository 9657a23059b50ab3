"""Faulty steps: nothing of them stays, they are reported, and they can be seen again."""

import json
import math
import os
import signal
import textwrap

import numpy as np
import pytest
from fake_distributions import Installer
from test_training import Reporter, go, recipe, state_bytes, without_clock

from scmkit import Run, resume
from scmkit.errors import NonFiniteError, PluginError, Preempted, RunError
from scmkit.training import checkpoint
from scmkit.training.nonfinite import replay

FAULTY = """
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from dataclasses import dataclass
from scmkit.interfaces import AbstractLoss, LossOutput
from scmkit.plugin import Plugin, Slot
from scmkit_plugins.diffusion import Options as Base, build_loss, build_tangent


@dataclass(frozen=True)
class Options(Base):
    at: tuple[int, ...] = (10,)
    what: str = "loss"
    draw: float = 2.0


class Faulty(AbstractLoss):
    inner: AbstractLoss
    options: Options = eqx.field(static=True)

    def __call__(self, model, tangent, x0, cond, *, step, key):
        out = self.inner(model, tangent, x0, cond, step=step, key=key)
        bad = jnp.any(step == jnp.array(self.options.at) - 1)
        bad &= jr.uniform(jr.fold_in(key, 7)) < self.options.draw
        if self.options.what == "loss":
            value = jnp.where(bad, jnp.nan, out.value)
        else:
            zero = out.value - jax.lax.stop_gradient(out.value)
            value = out.value + jnp.sqrt(jnp.where(bad, zero, 1.0))
        return LossOutput(value, out.metrics, out.ratio)


plugin = Plugin(
    name="faulty",
    summary="fails at some steps",
    provides={
        Slot.tangent: build_tangent,
        Slot.loss: lambda c, x, *, key: Faulty(build_loss(c, x, key=key), c),
    },
    config=Options,
)
"""


@pytest.fixture(autouse=True)
def faulty(tmp_path, monkeypatch):
    Installer(tmp_path / "site", monkeypatch)(
        "faulty-pack", {"faulty": "plugin"}, source=textwrap.dedent(FAULTY)
    )


def composed(mode="stop", **settings):
    return recipe("trigflow", "faulty", **{"train.on_nonfinite": mode} | settings)


def once(do):
    """A step may be passed twice, and a second signal ends the process at once."""
    left = [do]
    return lambda: left and left.pop()()


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("variant", [{}, {"train.accumulate": 4, "train.precision": "bfloat16"}])
def test_stop_reports_the_step_and_replays_it(tmp_path, what, variant):
    with pytest.raises(
        NonFiniteError, match=rf"the {what}.* is (nan|inf|-inf) at step 10; the last"
    ) as e:
        go(composed(**{"faulty.what": what}, **variant), tmp_path / "r")
    assert f"scmkit replay {tmp_path / 'r'} --step 10" in str(e.value)
    report = json.loads((tmp_path / "r" / "nonfinite" / "00000010.json").read_text())
    fault = replay(tmp_path / "r")
    assert fault.step == 10
    assert len(fault.culprits) == 16
    assert math.isfinite(fault.loss) == (what == "gradient")
    for shown, sample in zip(report["samples"], fault.samples, strict=True):
        assert shown["index"] == sample["index"]
        assert float(shown["time"]) == sample["time"]
        np.testing.assert_allclose(sample["ratio"], 0.5 * math.tan(sample["time"]), rtol=1e-4)
        assert math.isfinite(sample["parts"]["loss"]) == (what == "gradient")
        assert math.isfinite(sample["parts"]["gradient"]) == (what == "loss")
        assert all(math.isfinite(sample["parts"][n]) for n in ("network", "tangent", "df/dt"))


def test_the_state_of_a_fault_is_the_one_before_it(tmp_path):
    with pytest.raises(NonFiniteError):
        go(composed(), tmp_path / "r")
    before = go(composed(**{"train.steps": 9}), tmp_path / "b")
    saved = tmp_path / "r" / "nonfinite" / "00000010"
    for name, content in state_bytes(before).items():
        assert (saved / name).read_bytes() == content, name


def test_only_the_offending_samples_are_named(tmp_path):
    with pytest.raises(NonFiniteError):
        go(composed(**{"faulty.draw": 0.2}), tmp_path / "r")
    assert 0 < len(replay(tmp_path / "r").culprits) < 16


@pytest.mark.parametrize("at", ["9,10,24"])
@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_a_run_with_faults_resumes_bit_for_bit(tmp_path, mode, at):
    """With faults in flight, at a line of metrics, and at the end."""
    draw = 0.01 if mode == "rollback" else 2.0
    given = {"faulty.at": at, "faulty.draw": draw, "train.seed": 3}
    made = composed(mode, **given)
    straight = go(made, tmp_path / "a" / "run")
    path = tmp_path / "b" / "run"
    for stop, advance in ((11, go), (20, None)):
        trigger = Reporter(("run", stop), once(lambda: os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(Preempted):
            advance(made, path, trigger) if advance else resume(path, reporter=trigger)
    stopped = resume(path, reporter=Reporter())
    assert state_bytes(stopped) == state_bytes(straight)
    assert without_clock(stopped) == without_clock(straight)
    assert [line["step"] for line in straight.metrics] == [4, 8, 12, 16, 20, 24]
    if mode == "skip":
        assert sum(line.get("skipped", 0) for line in straight.metrics) == len(at.split(","))


@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_too_many_faults_in_a_row_stop(tmp_path, mode):
    at = ",".join(map(str, range(3, 20)))
    given = {"faulty.at": at, "train.nonfinite_limit": 3}
    with pytest.raises(NonFiniteError, match=r"3 faults in a row; nothing was saved yet"):
        go(composed(mode, **given), tmp_path / "r")


def test_rollback_takes_other_noise(tmp_path):
    reporter = Reporter()
    made = composed("rollback", **{"faulty.draw": 0.05, "train.seed": 1})
    run = go(made, tmp_path / "r", reporter)
    back = [m for m in reporter.messages if "back to step 8" in m]
    saved = checkpoint.metadata(checkpoint.latest(run.checkpoints))
    assert saved["faults"]["rollbacks"] == len(back) > 0
    assert saved["loader"]["position"] == 16 * (24 + 2 * len(back))


def test_nothing_to_replay(tmp_path):
    run = go(composed(**{"train.steps": 1, "faulty.at": "5"}), tmp_path / "r")
    with pytest.raises(RunError, match="it never met one"):
        replay(Run.load(run.path).path)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('raise KeyError("gone")', "failed: KeyError: 'gone'"),
        ("return LossOutput(x0, {}, x0.sum())", "from its loss, which must be float32()"),
    ],
)
def test_a_plugin_that_fails_in_training_is_named(tmp_path, monkeypatch, line, wanted):
    call = "        out = self.inner(model, tangent"
    source = FAULTY.replace(call, f"        {line}\n{call}").replace('"faulty"', '"wrong"')
    Installer(tmp_path / "other", monkeypatch)("wrong-pack", {"wrong": "plugin"}, source=source)
    with pytest.raises(PluginError) as e:
        go(recipe("trigflow", "wrong"), tmp_path / "r")
    assert "plugin 'wrong' of wrong-pack 1.0" in str(e.value)
    assert wanted in str(e.value) or "Type-check" in str(e.value)
    assert not (tmp_path / "r").exists()
