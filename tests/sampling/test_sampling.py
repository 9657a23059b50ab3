"""Samplers and conversions against Gaussian data, where everything is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from exact import exact_end, exact_model
from jax.experimental import io_callback
from scmkit_plugins.processes.edm import VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving
from scmkit_plugins.samplers.consistency import ConsistencySampler
from scmkit_plugins.samplers.pf_ode import Options, PFODESampler

from scmkit import compose
from scmkit.composing.build import build_free, build_sampler
from scmkit.errors import OptionError, UsageError
from scmkit.interfaces import (
    UNCONDITIONED,
    AbstractModel,
    AbstractNetwork,
    AbstractParameterization,
    AbstractSampler,
    DataSpec,
)
from scmkit.models.change_of_process import velocity_under
from scmkit.models.model import Model
from scmkit.plugin import Slot
from scmkit.sampling import (
    angle_of,
    at_end,
    conditioning,
    draw,
    evaluations,
    prior,
    sample,
    solve_pf_ode,
    time_at_angle,
    time_grid,
)

PROCESSES = {
    "trigflow": TrigFlowProcess(0.5),
    "edm": VarianceExploding(),
    "flow": RectifiedFlow(),
    "vp": VariancePreserving(),
}
KEY = jr.key(0)


def f32(x):
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("theirs", PROCESSES)
@pytest.mark.parametrize("ours", PROCESSES)
@pytest.mark.parametrize("ratio", [0.01, 0.7, 50.0])
def test_velocity_converts_between_all_processes(ours, theirs, ratio):
    # In float64: at high noise the velocity is a small difference of large terms.
    with jax.enable_x64(True):
        process = PROCESSES[ours]
        t = process.time_at(jnp.asarray(ratio, jnp.float64))
        x_t = jnp.linspace(-1, 1, 4) * process.sigma(t)
        own = exact_model(process).velocity(x_t, t)
        converted = velocity_under(process, exact_model(PROCESSES[theirs]), x_t, t)
        np.testing.assert_allclose(converted, own, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
def test_grid_is_equal_in_angle(name):
    param = exact_model(PROCESSES[name]).parameterization
    times = time_grid(param, 10)
    angles = angle_of(param, times)
    np.testing.assert_allclose(jnp.diff(angles), (angles[-1] - angles[0]) / 10, rtol=1e-2)
    np.testing.assert_allclose(param.process.ratio(times[0]), 80, rtol=1e-3)
    np.testing.assert_allclose(time_at_angle(param, angles), times, rtol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_pf_ode_reaches_the_exact_end(name):
    process = PROCESSES[name]
    model = exact_model(process)
    noise = prior(model, DataSpec("", (3,), 0, (0.0,), (1.0,)), 4, key=KEY)
    sampler = PFODESampler(
        Options(solver="Tsit5", controller="PIDController", rtol=1e-6, atol=1e-6)
    )
    out = draw(model, sampler, noise, UNCONDITIONED, steps=1, key=KEY)
    np.testing.assert_allclose(
        out.x, exact_end(process, noise, process.t_max), rtol=2e-3, atol=2e-4
    )


@pytest.mark.parametrize(("solver", "order"), [("Euler", 1), ("Heun", 2), ("Midpoint", 2)])
def test_order_of_convergence(solver, order):
    process = PROCESSES["trigflow"]
    model = exact_model(process)
    x = f32([0.4])
    exact = exact_end(process, x, process.t_max)

    def error(steps):
        times = time_grid(model.parameterization, steps, ratio_min=1e-4)
        return float(
            jnp.abs(at_end(solve_pf_ode(model, x, UNCONDITIONED, times, solver=solver)) - exact)[0]
        )

    measured = np.log2(error(16) / error(32))
    assert abs(measured - order) < 0.35, measured


def test_ddim_is_euler_in_the_data_prediction():
    # One Euler step in EDM's sigma is one DDIM step: x_s = (s/t) x_t + (1 - s/t) D.
    process = PROCESSES["edm"]
    model = exact_model(process)
    x, t, s = f32([1.3, -0.2]), f32(2.0), f32(0.5)
    solution = solve_pf_ode(model, x, UNCONDITIONED, jnp.stack([t, s]), solver="Euler")
    ddim = (s / t) * x + (1 - s / t) * model.denoise(x, t)
    np.testing.assert_allclose(at_end(solution), ddim, rtol=1e-5)


def test_dense_output_and_encoding():
    process = PROCESSES["trigflow"]
    model = exact_model(process)
    x, t = f32([0.3]), f32(0.8)
    adaptive = {"solver": "Tsit5", "controller": "PIDController", "rtol": 1e-6, "atol": 1e-6}
    forward = solve_pf_ode(model, x, UNCONDITIONED, f32([0.01, 1.5]), dense=True, **adaptive)
    middle = forward.evaluate(t)
    np.testing.assert_allclose(
        exact_end(process, middle, t), exact_end(process, x, f32(0.01)), rtol=1e-3
    )
    back = solve_pf_ode(model, at_end(forward), UNCONDITIONED, f32([1.5, 0.01]), **adaptive)
    np.testing.assert_allclose(at_end(back), x, rtol=1e-3)


class Counter:
    value = 0


class Counted(AbstractNetwork):
    """Counts how often it really runs."""

    counter: Counter

    def __call__(self, x, c_noise, cond, *, key):
        def note(x):
            self.counter.value += 1
            return x

        return io_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.mark.parametrize(
    ("solver", "controller", "nfe"),
    [
        ("Euler", "StepTo", 6),
        ("Heun", "StepTo", 12),
        ("Midpoint", "ConstantStepSize", 12),
        ("Tsit5", "StepTo", 37),
        ("Dopri5", "PIDController", None),
    ],
)
def test_evaluations_are_counted(solver, controller, nfe):
    param = TrigFlowParameterization(PROCESSES["trigflow"], 0.5)
    counter = Counter()
    model = Model(param, Counted(counter))
    times = time_grid(param, 6)
    solution = solve_pf_ode(
        model, jnp.ones(2), UNCONDITIONED, times, solver=solver, controller=controller
    )
    jax.block_until_ready(at_end(solution))
    claimed = int(evaluations(solution, solver, controller))
    assert claimed == counter.value
    assert nfe is None or claimed == nfe


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_consistency_sampling_has_the_right_spread(name, steps):
    # Exact f from N(0, sigma_max^2) noise: the samples' standard deviation is s to 0.1 percent.
    process = PROCESSES[name]
    model = exact_model(process, consistency=True)
    noise = prior(model, DataSpec("", (2000,), 0, (0.0,), (1.0,)), 4, key=KEY)
    sampler = ConsistencySampler(())
    out = draw(model, sampler, noise, UNCONDITIONED, steps=steps, key=KEY)
    assert int(out.nfe[0]) == steps
    np.testing.assert_allclose(out.x.std(), 0.2, rtol=0.03)
    if steps == 1:
        np.testing.assert_allclose(out.x, exact_end(process, noise, process.t_max), rtol=1e-5)


def test_two_step_time_is_the_papers():
    def angles(steps, given=()):
        return [float(ConsistencySampler(given).angle(i, steps)) for i in range(1, steps)]

    np.testing.assert_allclose(angles(2), [1.1])
    np.testing.assert_allclose(angles(4), [1.1, 2.2 / 3, 1.1 / 3], rtol=1e-6)
    np.testing.assert_allclose(angles(3, (0.9, 0.4)), [0.9, 0.4])
    np.testing.assert_allclose(angles(4, (0.9,)), angles(4))


def test_no_step_begins_below_the_part_of_the_path_that_was_learned():
    settings = compose(["tcm"], {"tcm.transition": 2.0}, teacher="none").plugins["consistency"]
    sampler = build_free(Slot.sampler, "consistency", settings.config)
    least = np.arctan(2.0 / 0.5)
    angles = [float(sampler.angle(i, 5, least)) for i in range(1, 5)]
    np.testing.assert_allclose(angles, 4 * [least], rtol=1e-6)
    model, seen = exact_model(PROCESSES["edm"], consistency=True), []

    class Watched(AbstractModel):
        parameterization: AbstractParameterization
        evaluations: int = 1
        noise_labels: int = 1

        def raw(self, x_t, t, cond=UNCONDITIONED, *, s=None, key=None):
            jax.debug.callback(lambda t: seen.append(float(t)), t)
            return model.raw(x_t, t, cond)

    sampler(Watched(model.parameterization), jnp.ones(2), UNCONDITIONED, steps=4, key=KEY)
    jax.effects_barrier()
    assert len(seen) == 4
    assert min(seen) == pytest.approx(2.0, rel=1e-5)


def test_a_sampler_that_does_not_draw_from_such_models_is_refused():
    recipe = compose(["ms-scd"], {"ms-scd.segments": 2})
    with pytest.raises(UsageError) as refused:
        build_sampler(recipe, "heun")
    assert str(refused.value) == (
        "the sampler 'heun' draws from diffusion models, and 'ms-scd' has made a generator model; "
        "its own sampler is 'flow-map'"
    )
    assert build_sampler(recipe).usual_steps == (2,)
    assert build_sampler(recipe, "flow-map", {"steps": "3"}).usual_steps == (3,)
    assert build_sampler(compose(["sct"]), "flow-map").usual_steps == (1, 2, 4)
    # Of a generator only its method knows how samples are made, by whatever sampler that is.
    for method, name in (("ms-scd", "consistency"), ("consistency-fm", "flow-map")):
        with pytest.raises(UsageError, match="has made a generator model; its own sampler is"):
            build_sampler(compose([method]), name)
    assert isinstance(build_sampler(compose(["consistency-fm"]), "ddim"), AbstractSampler)


def test_drawing_in_batches_changes_nothing(monkeypatch):
    model = exact_model(PROCESSES["trigflow"], consistency=True)
    data = DataSpec("", (2,), 3, (0.0,), (1.0,))
    noise, cond = prior(model, data, 10, key=KEY), conditioning(data, 10)
    whole = draw(model, ConsistencySampler(()), noise, cond, steps=2, key=KEY)
    monkeypatch.setattr("scmkit.sampling.drawing.BATCH", 4)
    parts = draw(model, ConsistencySampler(()), noise, cond, steps=2, key=KEY)
    assert eqx.tree_equal(whole, parts)


def test_samples_come_in_the_datas_units():
    data = DataSpec("", (2,), 0, (1.0, -3.0), (0.5, 0.25))
    model = exact_model(PROCESSES["trigflow"], s=0.5, consistency=True)
    x = sample(model, data, 4000, ConsistencySampler(()), seed=1)
    np.testing.assert_allclose(x.mean(0), [1, -3], atol=0.1)
    np.testing.assert_allclose(x.std(0), [1, 2], rtol=0.05)


def test_labels():
    data = DataSpec("", (2,), 3, (0.0,), (1.0,))
    assert conditioning(data, 5).label.tolist() == [0, 1, 2, 0, 1]
    assert conditioning(data, 2, label=1).label.tolist() == [1, 1]
    with pytest.raises(UsageError, match="classes 0 to 2"):
        conditioning(data, 2, label=3)
    with pytest.raises(UsageError, match="no classes"):
        conditioning(DataSpec("", (2,), 0, (0.0,), (1.0,)), 2, label=0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"solver": "Heum"}, "did you mean 'Heun'"),
        ({"controller": "PID"}, "controllers: StepTo"),
    ],
)
def test_unknown_names_are_explained(options, match):
    with pytest.raises(OptionError, match=match):
        Options(**options)
