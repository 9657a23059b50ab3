"""The discrete consistency methods: schedules in closed form, and no gradient for exact models."""

import dataclasses
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.distances.l2 import L2
from scmkit_plugins.methods import cd, cmt, consistency_fm, ct, dscd, ect, ict, tcm
from scmkit_plugins.methods._data_tangent import DataTangent
from scmkit_plugins.methods._pair import on_grid, separation
from scmkit_plugins.methods.scd import TeacherTangent
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.log_normal import LogNormal
from scmkit_plugins.processes.preconditioned import Preconditioned
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

from scmkit import Model, compose
from scmkit.composing.recipe_file import read_recipe
from scmkit.interfaces import (
    AbstractNetwork,
    AbstractTangentEstimator,
    AbstractTimeEmbedding,
    DataSpec,
    Point,
    Sample,
    Scene,
)
from scmkit.losses import eulerian, heun
from scmkit.plugin import Context, Slot
from scmkit.sampling import angle_of
from scmkit.settings import TrainingSettings
from scmkit.testing import exact_model
from scmkit.testing.oracles import Gaussian

SD = 0.5
PARAMS = {
    "trigflow": TrigFlowParameterization(TrigFlowProcess(SD), SD),
    "edm": EDMParameterization(VarianceExploding(), SD),
    "flow": VelocityParameterization(RectifiedFlow(), SD),
    "vp": Preconditioned(VariancePreserving(), SD),
}
DENSITY = Gaussian(jnp.array([0.1, -0.2]), jnp.array([0.2, 0.6]))
STEPS = 1000


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def density():
    return Gaussian(*(a.astype(float) for a in (DENSITY.mean, DENSITY.std)))


class Wave(AbstractNetwork):
    """A network that is exact for nothing."""

    height: jax.Array

    def __call__(self, x, c_noise, cond, *, key):
        return self.height * jnp.sin(3 * x + c_noise[0])


class Exact(AbstractNetwork):
    """The network of the exact map from each time to the end of its segment, and a wave beside it.

    Only for parameterizations whose noise label is the time.
    """

    parameterization: eqx.Module
    wave: Wave
    segments: int = 1

    def __call__(self, x, c_noise, cond, *, key):
        param, t = self.parameterization, c_noise[0]
        ratio = param.process.ratio(t)
        end = jnp.floor(ratio / (1 + ratio) * self.segments) / self.segments
        s = param.process.time_at(end / (1 - end))
        x_t = x / param.coefficients(t).in_
        a, b = param.jump(t, s)
        exact = (density().flow_map(param.process, x_t, t, s) - a * x_t) / b
        return exact + self.wave(x, c_noise, cond, key=key)


class ExactSolver(AbstractTangentEstimator):
    """The PF-ODE of the density, each step of which ends where it should."""

    process: eqx.Module

    def __call__(self, point):
        return density().velocity(self.process, point.x_t, point.t)

    def advance(self, point, r):
        x_r = density().flow_map(self.process, point.x_t, point.t, r)
        return Point(point.x0, point.eps, x_r, r, point.cond)


def waving(param, height):
    return Model(param, Wave(jnp.asarray(height)))


def exact_and(param, height, segments=1):
    return Model(param, Exact(param, Wave(jnp.asarray(height)), segments))


def point(process, ratio):
    t = process.time_at(jnp.asarray(ratio))
    x0, eps = jnp.array([-0.2, 0.5]), jnp.array([0.6, -1.1])
    return Point(x0, eps, process.perturb(x0, eps, t), t)


class OneFeature(AbstractTimeEmbedding):
    dim: int = 1

    def __call__(self, c_noise):
        return c_noise[:1]


def built(module, **options):
    data = DataSpec("none", (2,), 0, (0.0, 0.0), (1.0, 1.0))
    process = PARAMS["trigflow"].process
    parts = {Slot.noise: process, Slot.distance: L2(True), Slot.embedding: OneFeature()}
    context = Context(data, parts, train=TrainingSettings(steps=STEPS))
    return module.plugin.provides[Slot.loss](module.Options(**options), context, key=jr.key(0))


LOSSES = {
    "cd": (cd, {"solver": "ddim"}, 0.9),
    "ct": (ct, {"s0": 5, "s1": 9}, 0.9),
    "ict": (ict, {"s0": 2, "s1": 16}, 0.4),
    "ect": (ect, {}, 0.4),
    "ect-snr": (ect, {"weight": "snr", "q": 4.0}, 0.4),
    "tcm-first": (tcm, {}, 0.4),
    "tcm-second": (tcm, {}, 0.9),
    "dscd": (dscd, {"points": 40, "normalize": "none", "warmup_steps": 10}, 0.5),
    "cmt": (cmt, {"solver": "ddim", "steps": 4}, 0.5),
    "cfm-1": (consistency_fm, {"segments": 1, "delta": 0.1, "alpha": 0.0}, 0.9),
    "cfm-2": (consistency_fm, {"delta": 0.1, "known": 0.0, "alpha": 0.0}, 0.9),
    "cfm-warm": (consistency_fm, {}, 0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_exact_models_get_no_gradient(name):
    module, options, progress = LOSSES[name]
    param = PARAMS["flow" if module is consistency_fm else "trigflow"]
    loss, step = built(module, **options), round(progress * STEPS)
    batch = Sample(0.4 * jr.normal(jr.key(1), (16, 2)))
    segments = loss.options.segments if module is consistency_fm else 1

    @eqx.filter_jit
    def gradient(off):
        def value(off):
            model = exact_and(param, off, segments)
            scene = Scene(
                jnp.asarray(step),
                jnp.asarray(step / STEPS, float),
                LogNormal(-1.0, 1.4),
                ExactSolver(param.process),
                followers={"target": exact_and(param, 0.0), "first": exact_and(param, 0.0)},
            )
            outs = jax.vmap(lambda s, k: loss(model, scene, s, key=k))(
                batch, jr.split(jr.key(2), 16)
            )
            return jnp.mean(outs.value)

        return jax.grad(value)(off)

    at, beside = gradient(jnp.asarray(0.0)), gradient(jnp.asarray(0.1))
    assert abs(float(at)) < 1e-9 * abs(float(beside))
    assert abs(float(beside)) > 1e-6


def test_ct_grid_and_decay():
    options = ct.Options(s0=2, s1=150, mu0=0.9)
    for k in (0, 1, 10, 333, 999):
        n = math.ceil(math.sqrt(k / STEPS * (151**2 - 4) + 4) - 1) + 1
        assert int(ct.points(options, jnp.asarray(k / STEPS, jnp.float32))) == n
        decay = ct.TargetEMA(options, STEPS).decay(jnp.asarray(k + 1, jnp.int32))
        np.testing.assert_allclose(decay, math.exp(2 * math.log(0.9) / n), rtol=1e-6)
    assert int(ct.points(options, jnp.zeros(()))) == 2
    assert ct.plugin.followers(ct.Options(mu0=0.0), TrainingSettings()) == {}


@pytest.mark.parametrize(("s0", "s1"), [(10, 1280), (10, 100), (3, 3)])
def test_ict_curriculum(s0, s1):
    loss = built(ict, s0=s0, s1=s1)
    each = math.floor(STEPS / (math.log2(s1 // s0) + 1))
    for k in (0, each - 1, each, 3 * each + 1, STEPS - 1, 10_000_000):
        n = min(s0 * 2 ** min(k // each, 60), s1) + 1
        assert int(loss.points(jnp.asarray(k, jnp.int32))) == n


@pytest.mark.parametrize("name", ["trigflow", "edm"])
def test_ict_shares(name):
    loss, param = built(ict, s0=5, s1=40), PARAMS[name]
    found = np.asarray(loss.shares(param, jnp.asarray(21)))
    low, high = (r ** (1 / 7) for r in (2e-3, 80.0))
    grid = [(low + i / 20 * (high - low)) ** 7 for i in range(21)]
    phi = [math.erf((math.log(r) + 1.1) / (math.sqrt(2) * 2.0)) for r in grid]
    np.testing.assert_allclose(found[:20], np.diff(phi), rtol=3e-5)  # t_max is float32.
    assert not found[20:].any()


def test_ect_second_time_and_weights():
    for options in (ect.Options(), ect.Options(q=4.0, k=2.0, b=3.0, weight="snr")):
        loss = built(ect, **dataclasses.asdict(options))
        for t, progress in ((0.01, 0.0), (0.7, 0.3), (20.0, 0.99)):
            stage = math.floor(progress * 8)
            gap = (1 + options.k / (1 + math.exp(options.b * t))) / options.q ** (stage + 1)
            r = t * max(0.0, 1 - gap)
            found = loss.earlier(jnp.asarray(t), jnp.asarray(progress))
            np.testing.assert_allclose(found, r, rtol=1e-12, atol=1e-15)
            weight = (t**2 + SD**2) / (t * SD) ** 2 if options.weight == "snr" else 1 / (t - r)
            np.testing.assert_allclose(loss.weight(jnp.asarray(t), found, SD), weight, rtol=1e-12)


def test_tcm_noise_levels():
    options, u = tcm.Options(transition=2.0, width=0.1), jnp.linspace(0, 1, 2001)
    ratio = jax.vmap(lambda u: tcm.truncated(options, 80.0, u))(u)
    np.testing.assert_allclose([ratio[0], ratio[-1]], [2.0, 80.0], rtol=1e-12)
    y = jnp.log(ratio / 2)
    density = 1 / jax.vmap(jax.grad(lambda u: jnp.log(tcm.truncated(options, 80.0, u) / 2)))(u)
    shape = 1 / jnp.sqrt(y**2 + 0.1**2)
    np.testing.assert_allclose(density / density[0], shape / shape[0], rtol=1e-10)


def test_tcm_has_noise_above_its_transition():
    with pytest.raises(
        ValueError, match=r"transition=1e\+09 must be below .*, the process's largest"
    ):
        built(tcm, transition=1e9)


def test_tcm_looks_at_the_first_stage_below_the_transition_only():
    param, loss = PARAMS["edm"], built(tcm)
    sample = Sample(jnp.array([0.3, -0.1]))
    solver = ExactSolver(param.process)

    def output(step, first, key):
        scene = Scene(
            jnp.asarray(step),
            jnp.asarray(step / STEPS, float),
            LogNormal(-1.0, 1.4),
            solver,
            followers={"first": waving(param, first)},
        )
        return loss(waving(param, 0.1), scene, sample, key=key)

    output = eqx.filter_jit(jax.vmap(output, in_axes=(None, None, 0)))
    keys = jr.split(jr.key(0), 200)
    for step, differs in ((499, False), (500, True)):
        one, two = (output(step, first, keys) for first in (0.0, 0.3))
        lower = jax.vmap(lambda r, s=step: loss.ect.earlier(r, jnp.asarray(s / STEPS)))(one.ratio)
        np.testing.assert_array_equal(one.value != two.value, differs & (lower < 1.0))
        assert not differs or one.ratio.min() == 1.0
    np.testing.assert_allclose(jnp.mean(one.ratio == 1.0), 0.25, atol=0.1)


def along(process, solver, at, r):
    return solver.advance(at, process.time_at(jnp.asarray(r)))


@pytest.mark.parametrize("name", PARAMS)
def test_dscd_is_the_papers_delta(name):
    param, ratios = PARAMS[name], (1.3, 0.4)
    here = point(param.process, ratios[0])
    tangent = TeacherTangent(param.process, exact_model(param, density()))
    there = along(param.process, tangent, here, ratios[1])
    model = waving(param, 0.3)
    dx = tangent(here)
    _, stable, whole = eqx.filter_jit(dscd.difference)(model, here, there, dx)
    # In TrigFlow's coordinates, whatever the process.
    trig = PARAMS["trigflow"]
    t, s = (angle_of(param, p.t) for p in (here, there))
    cos, sin, lower = jnp.cos(t), jnp.sin(t), jnp.cos(s)
    x, x_s = (p.x_t * jnp.cos(a) / param.process.alpha(p.t) for p, a in ((here, t), (there, s)))
    f, f_s = (model.denoise(p.x_t, p.t) for p in (here, there))
    F_t, F_s = (cos * x - f) / (SD * sin), (lower * x_s - f_s) / (SD * jnp.sin(s))
    denoised = density().denoise(param.process, here.x_t, here.t)
    dy = trig.process.velocity_from_denoised(denoised, x, t)
    unstable = jnp.sin(s) * (x + SD * (jnp.cos(t - s) * F_t - F_s) / jnp.sin(t - s))
    np.testing.assert_allclose(stable, -cos * lower * (SD * F_t - dy), rtol=1e-9)
    np.testing.assert_allclose(whole - stable, -cos * unstable, rtol=1e-9)
    np.testing.assert_allclose(whole, cos * (f - f_s) / jnp.sin(t - s), rtol=1e-12)


def errors_halve(errors):
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(orders, 1, atol=0.15)


def test_dscd_converges_to_scd():
    param = PARAMS["trigflow"]
    here, solver, model = (
        point(param.process, 1.3),
        ExactSolver(param.process),
        waving(param, 0.3),
    )
    exact = eulerian(model, here, solver(here), weight=param.weight(here.t)).whole
    difference, errors = eqx.filter_jit(dscd.difference), []
    for gap in (0.04, 0.02, 0.01):
        there = solver.advance(here, here.t - gap)
        whole = difference(model, here, there, solver(here)).whole
        errors.append(float(jnp.abs(whole - exact).max()))
    errors_halve(errors)


@pytest.mark.parametrize("source", ["data", "teacher"])
def test_gradients_on_a_grid_converge_to_the_continuous(source):
    r"""$(N - 1) \nabla L^N \to \nabla \int 2 f^T \mathrm{sg}(df/dt)\, dt$ for squared L2."""
    param = PARAMS["edm"]
    process = param.process
    solver = ExactSolver(process) if source == "teacher" else DataTangent(process)
    distance = L2(True)

    def parts(intervals, i):
        t, r = (process.time_at(on_grid(param, j, intervals)) for j in (i + 1, i))
        here = eqx.tree_at(lambda p: p.t, point(process, 1.0), t)
        return eqx.tree_at(lambda p: p.x_t, here, process.perturb(here.x0, here.eps, t)), r

    @eqx.filter_jit
    def discrete(intervals):
        def value(off, i):
            here, r = parts(intervals, i)
            model = waving(param, off)
            return separation(distance, model, model, here, solver.advance(here, r))

        def each(i):
            return jax.grad(value)(jnp.asarray(0.3), i)

        return jnp.sum(jax.vmap(each)(jnp.arange(intervals, dtype=float)))

    @eqx.filter_jit
    def continuous(intervals):
        def each(i):
            here, r = parts(intervals, i)
            middle, r = parts(intervals, i - 0.5)[0], r

            def end(off, x, t):
                return waving(param, off).denoise(x, t)

            off = jnp.asarray(0.3)
            along = (solver(middle), jnp.ones(()))
            _, df = jax.jvp(lambda x, t: end(off, x, t), (middle.x_t, middle.t), along)
            slope = jax.jacfwd(end)(off, middle.x_t, middle.t)
            return 2 * (here.t - r) * jnp.sum(slope * df)

        return jnp.sum(jax.vmap(each)(jnp.arange(intervals, dtype=float)))

    limit = continuous(1600)
    errors_halve([abs(float(discrete(n) - limit)) for n in (50, 100, 200)])


def test_heun_is_second_order_and_ddim_first():
    param = PARAMS["edm"]
    here, teacher = point(param.process, 1.0), ExactSolver(param.process)
    tangent = TeacherTangent(param.process, exact_model(param, density()))
    local = {"heun": [], "ddim": []}
    for gap in (0.04, 0.02):
        r = here.t - gap
        exact = teacher.advance(here, r).x_t
        for name, step in (("heun", heun(tangent, here, r)), ("ddim", tangent.advance(here, r))):
            local[name].append(float(jnp.abs(step.x_t - exact).max()))
    orders = {name: np.log2(errors[0] / errors[1]) for name, errors in local.items()}
    np.testing.assert_allclose([orders["heun"], orders["ddim"]], [3, 2], atol=0.1)


def test_the_deep_recipe_doubles_the_depth():
    with jax.enable_x64(False):
        deep, plain = deep_and_plain()
    blocks = [recipe.plugins["ddpmpp"].config["blocks"] for recipe in (deep, plain)]
    assert blocks[0] == 2 * blocks[1]
    assert deep.slots[Slot.distance] == "pseudo-huber"


def deep_and_plain():
    file = read_recipe(Path(__file__).parents[2] / "examples" / "ict_deep.toml")
    images = DataSpec("none", (3, 32, 32), 0, (0.0,) * 3, (1.0,) * 3)
    return (
        compose(file.plugins, settings, data=images)
        for settings in (file.settings, {"train.steps": 1000})
    )


def test_a_mid_trained_student_follows_another_run(tmp_path):
    options = cd.Options(follow=str(tmp_path / ".." / "flow"))
    assert options.follow == str((tmp_path / ".." / "flow").resolve())
