"""The closed forms against autodiff, quadrature and an ODE solver in float64."""

from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads
from jaxtyping import TypeCheckError
from scmkit_plugins.processes.trigflow import TrigFlowProcess

from scmkit.data import Mixture
from scmkit.interfaces import AbstractNoiseProcess


class VE(AbstractNoiseProcess):
    ratio_max: float = 80.0

    def alpha(self, t):
        return jnp.ones_like(t)

    def sigma(self, t):
        return t

    def time_at(self, ratio):
        return ratio


class RectifiedFlow(AbstractNoiseProcess):
    ratio_max: float = 80.0

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t

    def time_at(self, ratio):
        return ratio / (1 + ratio)


PROCESSES = [VE(), TrigFlowProcess(sigma_data=0.5), RectifiedFlow()]
RATIOS = [0.02, 0.3, 2.0, 80.0]

processes = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def mixture(dtype: Any = np.float64):
    return Mixture(
        weights=jnp.asarray([[0.4, 0.6, 1e-4], [2.0, 1.0, 1.0]], dtype),
        means=jnp.asarray([[-0.7, 0.5, 3.0], [0.0, 0.1, -2.0]], dtype),
        stds=jnp.asarray([[0.15, 0.25, 0.05], [1.0, 0.1, 0.5]], dtype),
    )


def each(f, *arguments):
    return jax.jit(jax.vmap(f))(*arguments)


def noised(process, density, n=5):
    """Points of the noised density at times from almost data to almost noise, `n` for each."""
    t = jnp.repeat(each(process.time_at, jnp.asarray(RATIOS)), n)
    x0 = density.sample(len(t), key=jr.key(1))
    eps = jr.normal(jr.key(2), x0.shape, x0.dtype)
    return each(process.perturb, x0, eps, t), t


@processes
def test_score_is_the_gradient_and_tweedie_holds(x64, process):
    density = mixture()
    x, t = noised(process, density)
    score = each(partial(density.score, process), x, t)
    gradient = each(jax.grad(partial(density.log_prob, process)), x, t)
    np.testing.assert_allclose(score, gradient, rtol=1e-9, atol=1e-12)
    alpha, sigma = each(process.alpha, t)[:, None], each(process.sigma, t)[:, None]
    denoised = each(partial(density.denoise, process), x, t)
    np.testing.assert_allclose(denoised, (x + sigma**2 * score) / alpha, rtol=1e-9, atol=1e-11)


def test_denoise_is_the_posterior_mean(x64):
    density = mixture()
    y = jnp.linspace(-8, 8, 20_001)
    process, t, x = VE(), jnp.asarray(0.4), jnp.asarray([0.2, -0.9])
    for i in range(2):
        one = Mixture(density.weights[i : i + 1], density.means[i : i + 1], density.stds[i : i + 1])
        prior = each(partial(one.log_prob, process), y[:, None], jnp.zeros_like(y))
        p = jnp.exp(prior - 0.5 * ((x[i] - y) / t) ** 2)
        mean = jnp.sum(p * y) / jnp.sum(p)
        np.testing.assert_allclose(density.denoise(process, x, t)[i], mean, rtol=1e-10)


def pf_ode(process, density, x, t):
    def velocity(s, x, _):
        return process.velocity_from_denoised(density.denoise(process, x, s), x, s)

    end = process.time_at(jnp.asarray(1e-9))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri8(),
        t,
        end,
        None,
        x,
        stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-11),
        max_steps=100_000,
    )
    assert solution.ys is not None
    return solution.ys[-1]


@processes
def test_consistency_is_the_end_of_the_pf_ode(x64, process):
    density = mixture()
    x, t = noised(process, density, n=3)
    ends = each(partial(pf_ode, process, density), x, t)
    exact = each(partial(density.consistency, process), x, t)
    np.testing.assert_allclose(exact, ends, rtol=1e-7, atol=2e-8)


@processes
def test_consistency_is_constant_along_the_pf_ode(x64, process):
    density = mixture()
    x, t = noised(process, density)

    def rate(x, t):
        v = process.velocity_from_denoised(density.denoise(process, x, t), x, t)
        f = partial(density.consistency, process)
        return jax.jvp(f, (x, t), (v, jnp.ones_like(t)))[1]

    np.testing.assert_allclose(each(rate, x, t), 0, atol=1e-7)


def test_consistency_derivatives_match_finite_differences(x64):
    process, t = VE(), jnp.asarray(0.5)

    @jax.jit
    def f(x, stds):
        density = eqx.tree_at(lambda m: m.stds, mixture(), stds)
        return jnp.sum(jnp.sin(density.consistency(process, x, t)))

    arguments = jnp.asarray([0.1, -0.3]), mixture().stds
    check_grads(f, arguments, order=2, modes=("rev",), rtol=1e-5)


def test_consistency_at_time_zero_is_the_identity(x64):
    x = mixture().sample(200, key=jr.key(0))
    y = each(partial(mixture().consistency, VE()), x, jnp.zeros(200))
    np.testing.assert_allclose(y, x, atol=1e-9)


@processes
def test_float32_agrees_with_float64(process):
    with jax.enable_x64(True):
        x, t = noised(process, mixture(), n=300)

        def value_and_slope(x, t):
            f = partial(mixture().consistency, process)
            return jax.jvp(lambda x: f(x, t), (x,), (jnp.ones_like(x),))

        exact, slope = map(np.asarray, each(value_and_slope, x, t))
        x32, t32 = np.float32(x), np.float32(t)
    ours = each(partial(mixture(np.float32).consistency, process), x32, t32)
    assert ours.dtype == np.float32
    # Between modes the map itself magnifies the rounding of x.
    assert np.all(np.abs(ours - exact) < 1e-4 * (1 + slope * np.abs(x32)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_far_tails_follow_the_gaussian_map(dtype, tolerance):
    with jax.enable_x64(dtype == np.float64):
        one = jnp.ones((1, 1), dtype)
        density = Mixture(weights=one, means=0.2 * one, stds=0.3 * one)
        z = np.array([[-1000.0], [-40.0], [-8.0], [-1.0], [0.0], [1.0], [8.0], [40.0], [1000.0]])
        x = jnp.asarray(0.2 + z * np.hypot(0.3, 0.7), dtype)
        y = each(partial(density.consistency, VE()), x, jnp.full(len(z), 0.7, dtype))
        np.testing.assert_allclose(y, 0.2 + 0.3 * z, rtol=tolerance, atol=tolerance)


def test_affine(x64):
    density = mixture()
    shift, scale = jnp.asarray([0.3, -1.0]), jnp.asarray([2.0, -0.5])
    moved = density.affine(shift, scale)
    zero = jnp.asarray(0.0)
    x = density.sample(10, key=jr.key(0))
    log_p = each(lambda x: density.log_prob(VE(), x, zero), x)
    log_q = each(lambda y: moved.log_prob(VE(), y, zero), (x - shift[None]) * scale[None])
    np.testing.assert_allclose(log_q, log_p - jnp.log(jnp.abs(scale)).sum(), rtol=1e-12)


def test_samples_have_the_moments():
    density = mixture(np.float32)
    x = np.asarray(density.sample(20_000, key=jr.key(0)), np.float64)
    w = np.asarray(density.weights / density.weights.sum(-1, keepdims=True), np.float64)
    mean = (w * density.means).sum(-1)
    second = (w * (density.means**2 + density.stds**2)).sum(-1)
    assert x.shape == (20_000, 2)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
    np.testing.assert_allclose((x**2).mean(0), second, rtol=0.05)


def test_mismatched_shapes_are_refused():
    # The runtime checker of the test suite may object first.
    with pytest.raises((ValueError, TypeCheckError), match=r"one shape \(d, k\)|means"):
        Mixture(weights=jnp.ones((1, 2)), means=jnp.ones((1, 3)), stds=jnp.ones((1, 3)))
