"""Continuous-time losses: segments, what vanishes on the exact map, and the limits of the discrete losses."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import limits
import numpy as np
import pytest
from leading import PARAMS, SD, Leading, Solver, density, exact
from scenes import scene_for
from scmkit_plugins.distances.l1 import L1
from scmkit_plugins.distances.l2 import L2
from scmkit_plugins.distances.pseudo_huber import PseudoHuber
from scmkit_plugins.methods import _tangent
from scmkit_plugins.methods._tangent import ConsistencyLoss, ConsistencyOptions, segment_of
from scmkit_plugins.methods.continuous_consistency import (
    ContinuousLoss,
    TrainingOptions,
    build_loss,
    hessian_product,
)
from scmkit_plugins.modulation.positional import PositionalEmbedding
from scmkit_plugins.processes.uniform import Uniform

from scmkit import Model
from scmkit.interfaces import AbstractProposal, DataSpec, Point, Sample
from scmkit.losses import LogWeight, eulerian
from scmkit.plugin import Context, Slot
from scmkit.testing import Gaussian, reference_model

SEGMENTS = 3
DATA = DataSpec("test", (3,), 0, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


class At(AbstractProposal):
    """One noise level."""

    ratio: float

    def sample(self, process, *, key):
        return process.time_at(jnp.asarray(self.ratio))


def consistency_loss(segments=1, **options):
    embedding = PositionalEmbedding(channels=8, min_frequency=1e-4)
    given = {"warmup_steps": 4} | options
    return ConsistencyLoss(LogWeight(embedding), ConsistencyOptions(**given), segments=segments)


def wrong(name, *, labels=1):
    """A model that leads along the paths of other data."""
    other = Gaussian(mean=jnp.asarray(-0.3), std=jnp.asarray(0.5))
    to = partial(other.flow_map, PARAMS[name].process)
    return Model(PARAMS[name], Leading(name, to), noise_labels=labels)


@pytest.mark.parametrize("name", ["trigflow", "edm"])
def test_one_segment_is_scd(name, monkeypatch):
    model = reference_model(PARAMS[name], DATA, noise_labels=2)
    scene, sample = scene_for(model, step=1), Sample(jnp.array([0.3, -0.4, 0.8]))

    def gradient():
        def value(trained):
            return trained[0](trained[1], scene, sample, key=jr.key(3)).value

        return jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(value))((consistency_loss(), model)))

    segmented = gradient()
    monkeypatch.setattr(_tangent, "segment_of", lambda *_: (None, 1.0))
    for a, b in zip(segmented, gradient(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_segments_are_equal_in_angle():
    param = PARAMS["vp"]
    most = np.arctan(80 / SD)
    for angle, k in ((0.01, 0), (0.33, 0), (0.34, 1), (0.66, 1), (0.67, 2), (1.0, 2)):
        t = param.process.time_at(jnp.asarray(SD * np.tan(most * angle), jnp.float32))
        s, _ = segment_of(param, t, SEGMENTS)
        np.testing.assert_allclose(param.process.ratio(s), SD * np.tan(most * k / 3), rtol=1e-4)


def segmented(name, ratio):
    """The terms of the tangent at a point, `F`, and all that they are made of."""
    param, model = PARAMS[name], wrong(name, labels=2)
    t, x0 = param.process.time_at(ratio), jnp.array([-0.2])
    point = Point(x0, x0, param.process.perturb(x0, jnp.array([0.6]), t), t)
    s, turn = segment_of(param, t, SEGMENTS)
    dx = Solver(param.process, density())(point)
    F, *terms = eulerian(model, point, dx, s, weight=turn * param.weight(t))
    return jnp.stack(terms), F, dx, s, point


def test_segmented_tangents_are_those_of_trigflow(float64):
    """`training/loss_ms_scm.py` of EpiGenomicsCode/edm2_sCM, and the same in every process."""
    model, ratios = wrong("trigflow", labels=2), jnp.array([0.2, 0.9, 20.0])
    found, F, dx, s, point = jax.jit(jax.vmap(partial(segmented, "trigflow")))(ratios)
    cos, sin = jnp.cos(point.t - s)[:, None], jnp.sin(point.t - s)[:, None]

    @jax.jit
    @jax.vmap
    def derivative(x, t, s, along):
        return jax.jvp(partial(model.raw, s=s), (x, t), along)[1]

    J = derivative(point.x_t, point.t, s, (cos * sin * dx, (cos * sin)[:, 0]))
    stable = -cos * cos * (SD * F - dx)
    expected = jnp.stack([stable, stable - cos * sin * point.x_t - SD * J], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    for name in ("edm", "vp"):
        other = jax.jit(jax.vmap(partial(segmented, name)))(ratios)[0]
        np.testing.assert_allclose(other, found, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["trigflow", "vp"])
def test_segmented_scd_is_still_at_the_exact_map(name):
    model = exact(name, labels=2)
    loss = consistency_loss(warmup_steps=0, normalize="none", segments=SEGMENTS)
    scene = scene_for(model, tangent=Solver(model.process, density()))
    value = jax.jit(lambda key: loss(model, scene, Sample(jnp.array([0.4])), key=key).value)
    assert (
        float(jnp.abs(jax.vmap(value)(jr.split(jr.key(0), 32))).max()) < 1e-7
    )  # The label of the data stands for 1e-4.


@pytest.mark.parametrize("objective", ["inner-product", "square", "norm"])
def test_continuous_losses_vanish_at_the_exact_function(objective, float64):
    """And elsewhere they are the same in every process."""
    sample, loss = (
        Sample(jnp.array([0.4]), eps=jnp.array([-0.7])),
        ContinuousLoss(L2(True), objective),
    )
    values = []
    for name in ("trigflow", "vp", "edm"):
        given = {"tangent": Solver(PARAMS[name].process, density()), "proposal": At(0.8)}

        @jax.jit
        def at(key, name=name, given=given):
            out = [
                loss(m, scene_for(m, **given), sample, key=key) for m in (exact(name), wrong(name))
            ]
            return [(o.value, o.metrics["df_dratio"]) for o in out]

        (zero, still), (value, size) = at(jr.key(0))
        assert float(still) < 1e-12
        assert objective == "inner-product" or abs(float(zero)) < 1e-12
        assert abs(float(value)) > 1e-4
        if objective != "inner-product":
            np.testing.assert_allclose(value, size if objective == "norm" else size**2)
        values.append(float(value))
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


def test_hessians_of_distances():
    x, v = jnp.array([0.3, -0.2]), jnp.array([1.0, 0.5])
    np.testing.assert_allclose(hessian_product(L2(squared=True), x, v), 2 * v)
    c = 0.1 * np.sqrt(2)
    np.testing.assert_allclose(hessian_product(PseudoHuber(0.1), x, v), v / c, rtol=1e-5)


def test_a_distance_without_curvature_is_refused():
    for distance in (L2(squared=False), L1()):
        context = Context(DATA, {Slot.distance: distance})
        with pytest.raises(ValueError, match="not curved where its arguments are equal"):
            build_loss(TrainingOptions(), context, key=jr.key(0))


def test_uniform_over_karras():
    process = PARAMS["vp"].process
    times = jax.vmap(lambda k: Uniform(2e-3, "karras").sample(process, key=k))(
        jr.split(jr.key(0), 2000)
    )
    root = np.sort(np.asarray(jax.vmap(process.ratio)(times)) ** (1 / 7))
    expected = np.linspace(2e-3 ** (1 / 7), 80 ** (1 / 7), 2000)
    np.testing.assert_allclose(root, expected, atol=0.05)


def test_discrete_gradients_tend_to_the_continuous_ones_at_their_order(float64):
    model, tangents = limits.problem()
    limit = limits.continuous(model, tangents["CD"], True)[1]
    own = limits.continuous(model, tangents["CD"], False)
    for kind, stop, order in (("CD", True, 1), ("CT", True, 1), ("CD", False, 2)):
        errors = []
        for n in (65, 129):
            value, gradient = limits.discrete(model, tangents[kind], jnp.asarray(n), stop)
            scale = n - 1 if stop else (n - 1) ** 2
            errors.append(limits.distance(scale * gradient, limit if stop else own[1]))
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)
        if not stop:
            assert float(scale * value) == pytest.approx(float(own[0]), rel=1e-3)
