"""Noise processes and parameterizations against their closed forms (METHODS of the papers cited)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.preconditioned import Preconditioned
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

SD = 0.5
TRIG = TrigFlowParameterization(TrigFlowProcess(SD), SD)
EDM = EDMParameterization(VarianceExploding(), SD)
FLOW = VelocityParameterization(RectifiedFlow(), SD)
VP = Preconditioned(VariancePreserving(), SD)
ALL = {"trigflow": TRIG, "edm": EDM, "flow": FLOW, "vp": VP}
RATIOS = (0.01, 0.3, 1.0, 5.0, 60.0)


def f32(x):
    return jnp.asarray(x, jnp.float32)


@pytest.fixture
def x(getkey):
    return jax.random.normal(getkey(), (7,))


@pytest.mark.parametrize("ratio", RATIOS)
def test_trigflow_is_the_preconditioned_angle(ratio, x):
    t = TRIG.process.time_at(f32(ratio))
    generic = Preconditioned(TRIG.process, SD)
    for ours, theirs in zip(
        jax.tree.leaves(TRIG.coefficients(t)), jax.tree.leaves(generic.coefficients(t)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)
    np.testing.assert_allclose(TRIG.weight(t), generic.weight(t), rtol=1e-4)
    np.testing.assert_allclose(
        TRIG.velocity(x, 2 * x, t), generic.velocity(x, 2 * x, t), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("ratio", RATIOS)
def test_trigflow_network_is_minus_edms(ratio, x):
    # The same denoiser at the matched state: F_trig(x_t, t) = -F_EDM(x_t / cos t, sigma).
    t, sigma = TRIG.process.time_at(f32(ratio)), f32(ratio)
    x_t, F = 0.3 * x, x
    ours = TRIG.denoise(F, x_t, t)
    theirs = EDM.denoise(-F, x_t / jnp.cos(t), sigma)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("ratio", RATIOS)
def test_weight_makes_every_process_trigflow(name, ratio, x):
    # sqrt(sigma^2 + sd^2) df/dsigma = cos t df/dt = (1-u) sqrt((1-u)^2 + u^2 / sd^2) sd df/du
    param, trig_t = ALL[name], TRIG.process.time_at(f32(ratio))

    def f(param, t):
        # Any function of the matched state; here of the noise level alone, times a fixed image.
        return jnp.sin(jnp.log(param.process.ratio(t))) * x

    t = param.process.time_at(f32(ratio))
    one = f32(1.0)
    _, ours = jax.jvp(lambda t: f(param, t), (t,), (one,))
    _, trig = jax.jvp(lambda t: f(TRIG, t), (trig_t,), (one,))
    np.testing.assert_allclose(
        param.weight(t) * ours, TRIG.weight(trig_t) * trig, rtol=2e-3, atol=1e-5
    )


@pytest.mark.parametrize("u", [0.05, 0.5, 0.95])
def test_flow_weight_closed_form(u):
    unit = VelocityParameterization(RectifiedFlow(), 1.0)
    expected = (1 - u) * np.sqrt((1 - u) ** 2 + u**2)
    np.testing.assert_allclose(unit.weight(f32(u)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("ratio", [0.05, 1.0, 20.0])
def test_velocity_is_that_of_the_denoiser(name, ratio, x):
    param = ALL[name]
    t = param.process.time_at(f32(ratio))
    x_t, F = 1.3 * x, jnp.cos(x)
    expected = param.process.velocity_from_denoised(param.denoise(F, x_t, t), x_t, t)
    np.testing.assert_allclose(param.velocity(F, x_t, t), expected, rtol=2e-3, atol=2e-3)


def test_conditional_velocities(x):
    x0, eps, t = x, jnp.sin(x), f32(0.7)
    x_t = VarianceExploding().perturb(x0, eps, t)
    np.testing.assert_allclose(VarianceExploding().velocity(x0, eps, t), (x_t - x0) / t, rtol=1e-5)
    z = SD * eps
    np.testing.assert_allclose(
        TRIG.process.velocity(x0, eps, t), jnp.cos(t) * z - jnp.sin(t) * x0, rtol=1e-5
    )
    np.testing.assert_allclose(FLOW.process.velocity(x0, eps, t), eps - x0, rtol=1e-5)


def test_edm_loss_weight_is_unit_in_network_units():
    # (sigma^2 + sd^2) / (sigma sd)^2 = 1 / out^2 = 1 / (sd sin t)^2
    for ratio in RATIOS:
        sigma, t = f32(ratio), TRIG.process.time_at(f32(ratio))
        expected = (ratio**2 + SD**2) / (ratio * SD) ** 2
        np.testing.assert_allclose(EDM.coefficients(sigma).out ** -2, expected, rtol=1e-5)
        np.testing.assert_allclose(TRIG.coefficients(t).out ** -2, expected, rtol=1e-5)


def test_vp_time_is_inverse_of_ratio():
    process = VariancePreserving()
    for ratio in RATIOS:
        t = process.time_at(f32(ratio))
        np.testing.assert_allclose(process.ratio(t), ratio, rtol=1e-4)
        np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, rtol=1e-5)


def test_time_label_derivative_is_bounded_at_the_end():
    # sin t d/dt of EDM's label is 1 / (4 cos t): 40 at t_max where TrigFlow's is 1.
    t = TRIG.process.t_max
    _, slope = jax.jvp(lambda t: 0.25 * jnp.log(SD * jnp.tan(t)), (t,), (f32(1.0),))
    np.testing.assert_allclose(jnp.sin(t) * slope, 40, rtol=1e-2)
    _, ours = jax.jvp(lambda t: TRIG.coefficients(t).noise, (t,), (f32(1.0),))
    np.testing.assert_allclose(ours, 1.0)
