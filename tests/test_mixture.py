"""The closed forms against autodiff, quadrature and an ODE solver in float64."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from scmkit.data import Mixture
from scmkit.interfaces import AbstractNoiseProcess
from scmkit_plugins.trigflow import TrigFlowProcess


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


def mixture(dtype=np.float64):
    return Mixture(
        weights=jnp.asarray([[0.4, 0.6, 1e-4], [2.0, 1.0, 1.0]], dtype),
        means=jnp.asarray([[-0.7, 0.5, 3.0], [0.0, 0.1, -2.0]], dtype),
        stds=jnp.asarray([[0.15, 0.25, 0.05], [1.0, 0.1, 0.5]], dtype),
    )


def noised(process, density, ratio, n=5):
    """A time, and points of the noised density at it."""
    t = process.time_at(jnp.asarray(ratio))
    x0 = density.sample(n, key=jr.key(1))
    eps = jr.normal(jr.key(2), x0.shape, x0.dtype)
    return t, process.alpha(t) * x0 + process.sigma(t) * eps


@processes
@pytest.mark.parametrize("ratio", RATIOS)
def test_score_is_the_gradient_and_tweedie_holds(x64, process, ratio):
    density = mixture()
    t, points = noised(process, density, ratio)
    for x in points:
        score = density.score(process, x, t)
        np.testing.assert_allclose(
            score, jax.grad(density.log_prob, argnums=1)(process, x, t), rtol=1e-9, atol=1e-12
        )
        tweedie = (x + process.sigma(t) ** 2 * score) / process.alpha(t)
        np.testing.assert_allclose(density.denoise(process, x, t), tweedie, rtol=1e-9, atol=1e-11)


def test_denoise_is_the_posterior_mean(x64):
    density = mixture()
    y = jnp.linspace(-8, 8, 20_001)
    process, t, x = VE(), jnp.asarray(0.4), jnp.asarray([0.2, -0.9])
    for i in range(2):
        one = Mixture(density.weights[i : i + 1], density.means[i : i + 1], density.stds[i : i + 1])
        prior = jax.vmap(lambda y, one=one: one.log_prob(process, y[None], jnp.asarray(0.0)))(y)
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
    return solution.ys[-1]


@processes
@pytest.mark.parametrize("ratio", [0.3, 80.0])
def test_consistency_is_the_end_of_the_pf_ode(x64, process, ratio):
    density = mixture()
    t, points = noised(process, density, ratio, n=3)
    ends = jax.jit(jax.vmap(lambda x: pf_ode(process, density, x, t)))(points)
    exact = jax.jit(jax.vmap(lambda x: density.consistency(process, x, t)))(points)
    np.testing.assert_allclose(exact, ends, rtol=1e-7, atol=2e-8)


@processes
def test_consistency_is_constant_along_the_pf_ode(x64, process):
    density = mixture()
    t, points = noised(process, density, 0.7)
    for x in points:
        v = process.velocity_from_denoised(density.denoise(process, x, t), x, t)
        _, rate = jax.jvp(lambda x, t: density.consistency(process, x, t), (x, t), (v, 1 + 0 * t))
        np.testing.assert_allclose(rate, 0, atol=1e-9)


def test_consistency_derivatives_match_finite_differences(x64):
    process, t = VE(), jnp.asarray(0.5)
    x = jnp.asarray([0.1, -0.3])

    def f(x):
        return jnp.sum(jnp.sin(mixture().consistency(process, x, t)))

    jax.test_util.check_grads(f, (x,), order=2, modes=("fwd", "rev"), rtol=1e-5)


def test_consistency_at_time_zero_is_the_identity():
    with jax.enable_x64(True):
        x = mixture().sample(200, key=jr.key(0))
        y = jax.vmap(lambda x: mixture().consistency(VE(), x, jnp.asarray(0.0)))(x)
        np.testing.assert_allclose(y, x, atol=1e-9)
    density = mixture(np.float32)
    x = density.sample(200, key=jr.key(0))
    y = jax.vmap(lambda x: density.consistency(VE(), x, jnp.asarray(0.0)))(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, x, atol=2e-4)


@processes
@pytest.mark.parametrize("ratio", RATIOS)
def test_float32_agrees_with_float64(process, ratio):
    with jax.enable_x64(True):
        t, x = noised(process, mixture(), ratio, n=500)
        exact = jax.vmap(lambda x: mixture().consistency(process, x, t))(x)
        steep = np.asarray(jax.vmap(jax.jacfwd(lambda x: mixture().consistency(process, x, t)))(x))
        t32, x32, exact = np.float32(t), np.float32(x), np.asarray(exact)
    density = mixture(np.float32)
    ours = jax.vmap(lambda x: density.consistency(process, x, jnp.asarray(t32)))(x32)
    # Between modes the map itself magnifies the rounding of x.
    slope = np.abs(steep).sum(-1)
    assert np.all(np.abs(ours - exact) < 1e-4 * (1 + slope * np.abs(x32)))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_tails_follow_the_gaussian_map(dtype, sign):
    with jax.enable_x64(dtype == np.float64):
        one = jnp.ones((1, 1), dtype)
        density = Mixture(weights=one, means=0.2 * one, stds=0.3 * one)
        t = jnp.asarray(0.7, dtype)
        for z in (0.0, 1.0, 8.0, 40.0, 1000.0):
            x = jnp.asarray([0.2 + sign * z * np.hypot(0.3, 0.7)], dtype)
            y = density.consistency(VE(), x, t)
            rtol = 1e-5 if dtype == np.float32 else 1e-12
            np.testing.assert_allclose(y, [0.2 + sign * 0.3 * z], rtol=rtol, atol=rtol)


def test_affine(x64):
    density = mixture()
    shift, scale = jnp.asarray([0.3, -1.0]), jnp.asarray([2.0, -0.5])
    moved = density.affine(shift, scale)
    zero = jnp.asarray(0.0)
    for x in density.sample(10, key=jr.key(0)):
        y = (x - shift) * scale
        np.testing.assert_allclose(
            moved.log_prob(VE(), y, zero),
            density.log_prob(VE(), x, zero) - jnp.sum(jnp.log(jnp.abs(scale))),
            rtol=1e-12,
        )


def test_samples_have_the_moments():
    density = mixture(np.float32)
    x = np.asarray(density.sample(200_000, key=jr.key(0)), np.float64)
    w = np.asarray(density.weights / density.weights.sum(-1, keepdims=True), np.float64)
    mean = (w * density.means).sum(-1)
    second = (w * (density.means**2 + density.stds**2)).sum(-1)
    assert x.shape == (200_000, 2)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.01)
    np.testing.assert_allclose((x**2).mean(0), second, rtol=0.02)


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must have one shape \(d, k\)"):
        Mixture.__check_init__(  # without the runtime checker, which objects first in tests
            type("Parts", (), {"weights": jnp.ones(2), "means": jnp.ones(3), "stds": jnp.ones(3)})()
        )
