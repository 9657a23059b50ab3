"""The kernels of losses on exact flow maps: what each method drives to zero is zero there."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.preconditioned import Preconditioned
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

from scmkit import Model
from scmkit.data import Mixture
from scmkit.interfaces import UNCONDITIONED, AbstractNetwork, AbstractParameterization, Point
from scmkit.losses import ddim, derivative_along, eulerian, inv_ddim, lagrangian
from scmkit.testing.oracles import ExactNetwork

SD = 0.5
PARAMS = {
    "trigflow": TrigFlowParameterization(TrigFlowProcess(SD), SD),
    "edm": EDMParameterization(VarianceExploding(), SD),
    "flow": VelocityParameterization(RectifiedFlow(), SD),
    "vp": Preconditioned(VariancePreserving(), SD),
}
TIMES = ((3.0, 1.0, 0.3), (20.0, 2.0, 0.05), (0.5, 0.4, 0.3))
"""Noise-to-signal ratios of t, a time between, and s."""


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def density():
    return Mixture(*(jnp.array([row]) for row in ((0.3, 0.7), (-0.7, 0.5), (0.2, 0.1))))


class ExactMap(AbstractNetwork):
    """The network with which a parameterization's jump is the exact flow map of the mixture."""

    parameterization: AbstractParameterization

    def __call__(self, x, c_noise, cond, *, key):
        inverse = ExactNetwork(self.parameterization, density())
        t, s = (inverse.time_at(label[None]) for label in c_noise)
        x_t = x / self.parameterization.coefficients(t).in_
        a, b = self.parameterization.jump(t, s)
        return (density().flow_map(self.parameterization.process, x_t, t, s) - a * x_t) / b


@pytest.fixture(params=PARAMS)
def exact(request):
    param = PARAMS[request.param]
    return Model(param, ExactMap(param), noise_labels=2)


def point(model, ratio):
    process = model.process
    t = process.time_at(jnp.asarray(ratio))
    x0, eps = jnp.array([-0.2]), jnp.array([0.6])
    return Point(x0, eps, process.perturb(x0, eps, t), t, UNCONDITIONED)


def velocity(process, x, t):
    return process.velocity_from_denoised(density().denoise(process, x, t), x, t)


# Compiled once for all times of a parameterization: each has loops of its own, which alone take a second.


@eqx.filter_jit
def eulerian_residual(exact, ratios):
    at, s = point(exact, ratios[0]), exact.process.time_at(ratios[2])
    dx = velocity(exact.process, at.x_t, at.t)
    *_, whole = eulerian(exact, at, dx, s, weight=jnp.ones(()))
    return whole, dx


@eqx.filter_jit
def lagrangian_sides(exact, ratios):
    at, s = point(exact, ratios[0]), exact.process.time_at(ratios[2])
    end, moved = lagrangian(exact, at, s)
    return moved, velocity(exact.process, end, s)


@eqx.filter_jit
def one_jump_and_two(exact, ratios):
    at = point(exact, ratios[0])
    middle, s = (exact.process.time_at(r) for r in ratios[1:])
    once = exact.jump(at.x_t, at.t, s)
    return once, exact.jump(exact.jump(at.x_t, at.t, middle), middle, s)


@pytest.mark.parametrize("ratios", TIMES)
def test_eulerian_residual(exact, ratios):
    whole, dx = eulerian_residual(exact, jnp.array(ratios))
    np.testing.assert_allclose(whole, 0, atol=1e-12 * max(1, float(jnp.abs(dx).max())))


@pytest.mark.parametrize("ratios", TIMES)
def test_lagrangian_residual(exact, ratios):
    moved, expected = lagrangian_sides(exact, jnp.array(ratios))
    np.testing.assert_allclose(moved, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("ratios", TIMES)
def test_semigroup(exact, ratios):
    once, twice = one_jump_and_two(exact, jnp.array(ratios))
    np.testing.assert_allclose(twice, once, rtol=0, atol=1e-12)


def test_a_flow_map_ends_where_the_consistency_function_does(exact):
    process, at = exact.process, point(exact, 2.0)
    end = eqx.filter_jit(density().flow_map)(process, at.x_t, at.t, jnp.zeros(()))
    consistency = eqx.filter_jit(density().consistency)(process, at.x_t, at.t)
    np.testing.assert_allclose(end, consistency, atol=1e-13)


@pytest.mark.parametrize("name", PARAMS)
def test_closed_forms_of_jumps_are_the_ddim_step(name):
    param = PARAMS[name]
    for high, low in ((3.0, 0.3), (50.0, 1e-3), (0.02, 0.01)):
        t, s = (param.process.time_at(jnp.asarray(r)) for r in (high, low))
        np.testing.assert_allclose(param.jump(t, s), param.ddim_jump(t, s), rtol=1e-12)
    zero, c = jnp.zeros(()), param.coefficients(t)
    np.testing.assert_allclose(param.jump(t, zero), (c.skip, c.out), rtol=1e-12)


@pytest.mark.parametrize("name", PARAMS)
def test_inverse_ddim(name):
    process = PARAMS[name].process
    t, s = (process.time_at(jnp.asarray(r)) for r in (3.0, 0.3))
    x, denoised = jnp.array([0.4, -1.0]), jnp.array([0.2, 0.1])
    there = ddim(process, x, denoised, t, s)
    np.testing.assert_allclose(inv_ddim(process, x, there, t, s), denoised, rtol=1e-13)


@pytest.mark.parametrize("kind", ["semi-continuous", "central"])
def test_derivatives_by_differences_converge_at_their_order(kind):
    def f(x, t):
        return jnp.sin(x * t) + t**3

    x, t, dx = jnp.array([0.3, 1.2]), jnp.asarray(0.7), jnp.array([1.0, -0.5])
    given = (f, x, t, dx, jnp.asarray(0.5))
    value, exact = derivative_along(*given)
    errors = []
    for gap in (1e-2, 5e-3):
        same, found = derivative_along(*given, kind=kind, gap=gap)
        np.testing.assert_array_equal(same, value)
        errors.append(float(jnp.abs(found - exact).max()))
    order = np.log2(errors[0] / errors[1])
    assert abs(order - (1 if kind == "semi-continuous" else 2)) < 0.1
