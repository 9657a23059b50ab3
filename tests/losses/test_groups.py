"""Losses on groups of samples: which samples meet, what is refused, and moment matching on exact jumps."""

import os
import subprocess
import sys
from collections import deque

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scenes import scene_for
from scmkit_plugins.methods import drifting, imm
from scmkit_plugins.methods._bank import Bank
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.uniform import Uniform

from scmkit import Model, build, compose
from scmkit.composing.build import expect_groups
from scmkit.data import Mixture
from scmkit.errors import OptionError, PluginError
from scmkit.interfaces import (
    AbstractGroupLoss,
    AbstractNetwork,
    Conditioning,
    LossOutput,
    Sample,
)
from scmkit.testing.oracles import Gaussian
from scmkit.training.guarded import Given, guarded
from scmkit.training.objective import losses
from scmkit.training.packed import pack
from scmkit.training.setup import setting_of, state_before, step_of

SD = 0.5
PARAMS = {
    "trigflow": TrigFlowParameterization(TrigFlowProcess(SD), SD),
    "edm": EDMParameterization(VarianceExploding(), SD),
    "flow": VelocityParameterization(RectifiedFlow(), SD),
}
TINY = {"mlp.width": 8, "mlp.depth": 1, "mlp.embedding_dim": 8, "positional.channels": 4}


class Spread(AbstractGroupLoss):
    """How far the samples of a group lie from their mean."""

    group: int = eqx.field(static=True)

    def __call__(self, model, scene, samples, *, key):
        value = jnp.mean((samples.x0 - samples.x0.mean(0, keepdims=True)) ** 2)
        return LossOutput(value, {"drawn": jr.uniform(key)}, jnp.ones(()))


def spread(group, n=8):
    model = Model(PARAMS["trigflow"], Still(jnp.zeros(())), noise_labels=2)
    batch, keys = Sample(jnp.arange(float(n))[:, None]), jr.split(jr.key(0), n)
    return losses((model, Spread(group)), scene_for(model), batch, keys), keys


def test_a_batch_is_its_groups_in_order():
    out, keys = spread(4)
    np.testing.assert_allclose(out.value, jnp.full(8, 1.25))
    drawn = [jr.uniform(keys[i]) for i in (0, 4)]
    np.testing.assert_array_equal(out.metrics["drawn"], jnp.repeat(jnp.stack(drawn), 4))
    np.testing.assert_allclose(spread(1)[0].value, 0)


@pytest.mark.parametrize(
    ("batch", "accumulate", "group", "said"),
    [
        (126, 1, 4, "train.batch_size=126; the nearest sizes that they divide: 124 and 128"),
        (24, 2, 8, "=24 and train.accumulate=2; the nearest sizes that they divide: 16 and 32"),
        (3, 1, 4, "train.batch_size=3; the nearest sizes that they divide: 4"),
    ],
)
def test_a_batch_that_is_no_whole_number_of_groups_is_refused(batch, accumulate, group, said):
    settings = {"train.batch_size": batch, "train.accumulate": accumulate, "imm.group": group}
    recipe = compose(["imm"], TINY | settings, data="gmm")
    with pytest.raises(OptionError) as refusal:
        build(recipe, key=jr.key(0))
    assert str(refusal.value).endswith(said)
    assert f"'imm' takes samples in groups of {group}" in str(refusal.value)


PROGRAM = """
import sys
import equinox as eqx, jax, jax.random as jr
from scmkit import build, compose
from scmkit.interfaces import Sample
from scmkit.training.placement import Placement
from scmkit.training.setup import setting_of, state_before, step_of
for devices, parts in ((1, 1), (1, 2), (4, 1)):
    settings = dict(eval(sys.argv[1])) | {"train.batch_size": 8, "train.accumulate": parts}
    recipe = compose(["imm"], settings, data="gmm")
    assembly = build(recipe, key=jr.key(0))
    batch = Sample(0.5 * jr.normal(jr.key(1), (8, 1)))
    hands = None
    if devices == 4:
        assert len(jax.devices()) == 4
        place = Placement(recipe.train)
        assembly, batch, hands = place.placed(assembly), place.by_sample(batch), place.hands
    step = eqx.filter_jit(step_of(recipe, hands))
    means = step(setting_of(assembly), batch, jr.key(2), state_before(recipe, assembly))[1].means
    print(float(means["loss"]), float(means["grad_norm"]))
"""


@pytest.mark.slow
def test_groups_are_the_same_in_micro_batches_and_on_several_devices():
    """A batch of two groups on four devices: each group lies on two."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", PROGRAM, repr(TINY)]
    env = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, *others = np.loadtxt(done.stdout.splitlines())
    assert len(others) == 2
    assert np.all(one > 0)
    for other in others:
        np.testing.assert_allclose(other, one, rtol=1e-5)


def test_a_group_is_a_whole_number():
    with pytest.raises(PluginError, match=r"imm.* takes groups of 2\.5"):
        expect_groups(compose(["imm"], TINY, data="gmm"), Spread(2.5))


class Still(AbstractNetwork):
    """An output that depends on nothing but an offset."""

    offset: jax.Array

    def __call__(self, x, c_noise, cond, *, key):
        return self.offset + 0 * x


class ExactMap(AbstractNetwork):
    """The network whose jumps are the exact flow map of a Gaussian, moved by an offset."""

    param: object
    density: Gaussian
    offset: jax.Array

    def __call__(self, x, c_noise, cond, *, key):
        edm = isinstance(self.param, EDMParameterization)
        t, s = jnp.exp(4 * c_noise) if edm else c_noise
        apart = t - s > 1e-9 * t
        s = jnp.where(apart, s, t / 2)
        a, b = self.param.jump(t, s)
        x_t = x / self.param.coefficients(t).in_
        end = self.density.flow_map(self.param.process, x_t, t, s)
        return jnp.where(apart, (end - a * x_t) / b, 0) + self.offset


def statistic(name, density, *, offset=0.0, group=4, halvings=6, n=8, seed=0):
    """The metric and the value of the loss at `n` samples of a density, with the slope in the offset."""
    param = PARAMS[name]
    loss = imm.InductiveLoss(group, 0, imm.Options(group=group, halvings=halvings))
    x0 = density.mean + density.std * jr.normal(jr.key(seed), (n, 1))

    def value(offset):
        model = Model(param, ExactMap(param, density, offset), noise_labels=2)
        scene = scene_for(model, proposal=Uniform())
        out = losses((model, loss), scene, Sample(x0), jr.split(jr.key(seed + 1), n))
        return jnp.mean(out.value), out.metrics["mmd"]

    (mean, mmd), slope = eqx.filter_jit(jax.value_and_grad(value, has_aux=True))(
        jnp.asarray(offset)
    )
    return mmd, mean, slope


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PARAMS)
def test_the_statistic_is_zero_where_both_starts_are_one(name):
    """`r = t`: the two groups are the same, whatever the network."""
    density = Gaussian(mean=jnp.asarray(0.3), std=jnp.asarray(0.2))
    mmd, _, slope = statistic(name, density, offset=0.7, halvings=60)
    np.testing.assert_allclose(mmd, 0, atol=1e-13)
    np.testing.assert_allclose(slope, 0, atol=1e-7)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PARAMS)
def test_the_statistic_is_zero_on_the_exact_flow_map(name):
    """Where the data is one point, both starts lie on one path and the jumps of both end in one point."""
    point = Gaussian(mean=jnp.asarray(0.3), std=jnp.asarray(0.0))
    mmd, value, _ = statistic(name, point, halvings=2)
    np.testing.assert_allclose(mmd, 0, atol=1e-7)
    assert statistic(name, point, halvings=2, offset=0.3)[1] > value + 1e-4


@pytest.mark.usefixtures("float64")
def test_on_the_exact_flow_map_only_the_bias_of_a_finite_group_is_left():
    """In expectation `2 (1 - k(y_i, z_i)) / M`: an eighth of it with eight times the particles."""
    density = Gaussian(mean=jnp.asarray(0.3), std=jnp.asarray(0.2))
    small, large = (
        statistic("trigflow", density, group=m, halvings=2, n=2**13)[0].mean() for m in (4, 32)
    )
    assert small == pytest.approx(8 * float(large), rel=0.25)


@pytest.mark.usefixtures("float64")
def test_the_kernel_in_closed_form():
    y, z = jnp.asarray([[0.0, 0.0], [3.0, 4.0]]), jnp.zeros((2, 2))
    value, slope = jax.value_and_grad(imm.discrepancy)(y, z, jnp.asarray(2.0))
    np.testing.assert_allclose(
        value, (1 + np.exp(-5 / 2)) / 2 + 1 - (1 + np.exp(-5 / 2)), rtol=1e-6
    )
    # The far particle is drawn to both of the others' and pushed by its own.
    pull = 0.5 * np.exp(-5 / 2) / 2 * np.asarray([0.6, 0.8])
    np.testing.assert_allclose(slope, [pull, pull], rtol=1e-6)


def drift(x, y, alike=None, tau=0.3, **options):
    alike = jnp.ones((len(x), len(x)), bool) if alike is None else alike
    sets = drifting.Drifted(x, y, alike, alike)
    return drifting.drift(sets, tau, drifting.Options(**options))


@pytest.mark.usefixtures("float64")
def test_the_drift_is_the_difference_of_the_scores_of_smoothed_sets():
    """Smoothed by a Gaussian, a set is a mixture: of the data, and of the other generated samples."""
    tau, process = 0.3, TrigFlowProcess(SD)
    x, y = jr.normal(jr.key(0), (6, 1)), 0.5 * jr.normal(jr.key(1), (6, 1))
    found = drift(x, y, tau=tau, kernel="gaussian", normalize="each")

    def score(points, at):
        n = len(points)
        smooth = Mixture(jnp.full((1, n), 1 / n), points.T, jnp.full((1, n), tau))
        # At the least time the data is all but clean, and the score (D - x) / sigma^2.
        t = jnp.asarray(1e-4)
        sigma = process.sigma(t)
        alpha = process.alpha(t)
        return (alpha * smooth.denoise(process, alpha * at, t) - alpha * at) / sigma**2

    for i in range(6):
        others = jnp.delete(x, i, axis=0)
        expected = tau**2 * (score(y, x[i]) - score(others, x[i]))
        np.testing.assert_allclose(found[i], expected, rtol=1e-4)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kernel", ["laplace", "gaussian"])
def test_nothing_drifts_where_both_sets_are_alike(kernel):
    """Exactly for two samples, each of which sits on one of the data and apart from the other."""
    x = jnp.asarray([[0.0], [1.0]])
    np.testing.assert_allclose(
        drift(x, x[::-1] + 0, kernel=kernel, normalize="each").sum(), 0, atol=1e-12
    )
    many = jr.normal(jr.key(0), (2, 512, 1))
    moved = drift(*many, kernel=kernel).mean()
    away = drift(many[0] + 1, many[1], kernel=kernel).mean()
    assert abs(moved) < 0.05 * abs(away)
    assert away < 0


@pytest.mark.usefixtures("float64")
def test_only_samples_of_a_class_drift_together():
    x, y = jr.normal(jr.key(0), (6, 2)), jr.normal(jr.key(1), (6, 2))
    label = jnp.asarray([0, 1, 0, 1, 0, 2])
    found = drift(x, y, label[:, None] == label[None])
    for c in (0, 1):
        mine = label == c
        np.testing.assert_allclose(found[mine], drift(x[mine], y[mine]), rtol=1e-9)
    np.testing.assert_allclose(found[5], 0)  # Alone there is nothing to be pushed off from.


def test_a_bank_holds_the_last_samples_of_each_class():
    bank = Bank(jnp.zeros((3, 4, 1)), jnp.zeros(3, jnp.int32))
    rng, held = np.random.default_rng(0), {c: deque(maxlen=4) for c in range(3)}
    for n in (7, 40, 1, 5, 9, 12):
        x, label = rng.normal(size=(n, 1)).astype(np.float32), rng.integers(0, 2, n)
        for one, c in zip(x, label, strict=True):
            held[c].append(one)
        cond = Conditioning(jnp.asarray(label, jnp.int32))
        bank = bank.remember(Sample(jnp.asarray(x), cond))
        for c, expected in held.items():
            found, filled = bank.of(Conditioning(jnp.asarray(c, jnp.int32)))
            assert sorted(found[filled, 0].tolist()) == sorted(float(one[0]) for one in expected)


def test_a_bank_that_holds_one_batch_of_one_class_changes_nothing():
    options = drifting.Options(bank=8, group=8)
    recipe = compose(["drifting"], TINY, data="gmm")
    model = build(recipe, key=jr.key(0)).model
    x0, key = 0.5 * jr.normal(jr.key(1), (8, 1)), jr.key(2)
    bank = Bank(jnp.zeros((1, 8, 1)), jnp.zeros(1, jnp.int32)).remember(Sample(x0))
    scene = scene_for(model, memories={"bank": bank})

    def slopes(loss, keys):
        def value(model):
            return jnp.mean(losses((model, loss), scene, Sample(x0), keys).value)

        return jax.tree.leaves(eqx.filter_grad(value)(model))

    # A group draws the keys of its samples from its own.
    banked = slopes(drifting.BankedDriftingLoss(8, options), jnp.stack([key] * 8))
    plain = slopes(drifting.DriftingLoss(drifting.Options()), jr.split(key, 8))
    for one, other in zip(banked, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_bank_and_its_groups_are_set_together():
    with pytest.raises(OptionError, match=r"drifting\.bank=8 and drifting\.group=0.*set both"):
        build(compose(["drifting"], TINY | {"drifting.bank": 8}, data="gmm"), key=jr.key(0))


def test_the_bank_is_filled_by_training_and_not_by_a_step_that_is_held():
    recipe = compose(
        ["drifting"],
        TINY | {"drifting.bank": 16, "drifting.group": 4, "train.batch_size": 8},
        data="gmm",
    )
    assembly = build(recipe, key=jr.key(0))
    step, state = guarded(step_of(recipe)), pack(state_before(recipe, assembly))
    seen = []
    for n, hold in enumerate((False, False, True)):
        batch = Sample(0.5 * jr.normal(jr.key(n), (8, 1)))
        given = Given(pack(setting_of(assembly)), batch, jr.key(2), jnp.asarray(hold))
        state = step(given, state)[0]
        seen.append(int(state.tree.memories["bank"].seen.sum()))
    assert seen == [8, 16, 16]
    assert jnp.all(jnp.any(state.tree.memories["bank"].samples != 0, axis=(0, 2)))


def test_a_group_of_one_is_refused():
    given = TINY | {"drifting.bank": 4, "drifting.group": 1}
    with pytest.raises(OptionError, match=r"drifting\.group=1.*at least 2"):
        build(compose(["drifting"], given, data="gmm"), key=jr.key(0))
