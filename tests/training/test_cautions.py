"""What is said before a training that is likely to fail: its text, its measure, and that it is said once."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from small_runs import SMALL, Reporter, go, recipe

from scmkit import Run, build, resume
from scmkit.interfaces import AbstractNetwork, AbstractProposal
from scmkit.training import cautions
from scmkit.training.cautions import caution
from scmkit.training.turning import Turning, turning


def said(*plugins, data="gmm", teacher="none", **settings):
    composed = recipe(*plugins, data=data, teacher=teacher, **settings)
    reporter = Reporter()
    caution(composed, build(composed, key=jr.key(0)), None, reporter)
    return reporter.messages


@pytest.mark.parametrize(
    ("method", "settings", "name", "remedy"),
    [
        ("meanflow", {}, "meanflow", "--set meanflow.power=0"),
        ("meanflow", {"meanflow.power": 0.0}, "", ""),
        ("sct", {}, "sct", "--set sct.normalize=none"),
        ("sct", {"sct.normalize": "none"}, "", ""),
        ("ect", {}, "l2", "--set l2.squared=true"),
        ("ect", {"l2.squared": True}, "", ""),
        ("ict", {}, "pseudo-huber", "--set pseudo-huber.constant=1"),
        ("facm", {"facm.cosine": 0.0}, "facm", "--set facm.power=0.0 --set facm.normalize=none"),
        ("lsd", {}, "", ""),
    ],
)
def test_residuals_that_are_divided_by_their_size_are_biased_on_few_values(
    method, settings, name, remedy, monkeypatch
):
    monkeypatch.setattr(cautions, "turning", lambda *args: Turning(0.0, 0.0))
    text = (
        f"'{name}' weighs each sample's residual by its size, which makes the model biased on samples of "
        f"{{}}; without it: {remedy}"
    )
    assert said(method, **settings) == ([text.format("one value")] if name else [])
    if method == "meanflow" and name:
        assert said(method, data="two-moons") == [text.format("2 values")]
        assert said(method, data="digits", **{"mlp.width": 8}) == []


def test_a_target_without_noise_has_no_bias():
    composed = recipe("meanflow", "tangent=scd")
    reporter = Reporter()
    model = build(recipe("diffusion"), key=jr.key(0)).model
    caution(composed, build(composed, key=jr.key(0), teacher=model), None, reporter)
    assert reporter.messages == []


class Cosine(AbstractNetwork):
    """`x cos(k c)`, which turns `k` times as fast as its noise label."""

    k: float

    def __call__(self, x, c_noise, cond, *, key):
        return x * jnp.cos(self.k * c_noise[0])


class At(AbstractProposal):
    angle: float

    def sample(self, process, *, key):
        return jnp.asarray(self.angle)


def test_the_measure_is_that_of_the_closed_form():
    composed = recipe("trigflow", "diffusion")
    model = build(composed, key=jr.key(0)).model
    for k, angle in ((1.0, 0.5), (20.0, 0.9), (5.0, 1.4)):
        turns = eqx.tree_at(lambda m: m.network, model, Cosine(k))
        want = np.sin(angle) * np.cos(angle) * k * abs(np.tan(k * angle))
        assert turning(composed, turns, At(angle)) == (pytest.approx(want, rel=0.02), 0.0)


def test_fast_time_features_are_told_once_and_only_where_they_are_differentiated(
    tmp_path, monkeypatch
):
    monkeypatch.delitem(SMALL, "positional.channels")  # Not part of these recipes.
    plain, steps = {"sct.normalize": "none"}, {"train.steps": 1}
    composed = recipe("sct", "fourier", teacher="none", **plain, **steps, **{"fourier.scale": 16.0})
    reporter = Reporter()
    run = go(composed, tmp_path / "r", reporter)
    [line] = reporter.messages
    assert line.startswith(
        "the model turns fast in time, which 'sct' differentiates: in an e-fold of"
    )
    assert line.endswith(
        "(calm: up to 3); calmer with --set fourier.scale=0.02 (now 16.0) or --plugin embedding=positional"
    )
    after = Reporter()
    resume(run.path, steps=2, reporter=after)
    assert after.messages == []
    # A teacher's network speaks for itself.
    source = Run.create(tmp_path / "t", recipe("diffusion", "fourier", **{"fourier.scale": 16.0}))
    model = build(source.recipe, key=jr.key(0)).model
    source.model = eqx.tree_at(lambda m: m.network, model, Cosine(400.0))
    calm = recipe("scd", "positional", teacher=source.path)
    taught = Reporter()
    caution(calm, build(calm, key=jr.key(0), teacher=source.model), source, taught)
    [line] = taught.messages
    assert line.startswith(f"teacher '{source.path}' turns fast in time")
    assert "--set fourier.scale=0.02 (now 16.0)" in line
    square = {"l2.squared": True, "fourier.scale": 16.0}
    assert said("ect", "fourier", **square) == []


@pytest.mark.parametrize("process", ["trigflow", "edm", "flow-matching", "vp"])
def test_slow_time_features_are_calm(process):
    assert said(process, "sct", **{"sct.normalize": "none"}) == []
