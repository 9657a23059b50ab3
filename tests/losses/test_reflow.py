"""Reflow in one dimension, where the pairs are monotone: at its optimum one Euler step is the exact map."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scenes import scene_for
from scmkit_plugins.distances.l2 import L2
from scmkit_plugins.methods import diffusion, reflow
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.uniform import Uniform
from scmkit_plugins.samplers import ddim, pf_ode

from scmkit import Model
from scmkit.data.mixture import Mixture
from scmkit.interfaces import UNCONDITIONED, AbstractNetwork, AbstractTimeEmbedding, Sample
from scmkit.losses import LogWeight
from scmkit.testing import exact_model

PROCESS = RectifiedFlow(ratio_max=1e6)
PARAM = VelocityParameterization(PROCESS, 0.5)
GRID = {"grid": "time", "ratio_min": 1e-6}
EULER = {
    "ddim": ddim.DDIM(ddim.Options(**GRID, to_zero=False)),
    "pf-ode": pf_ode.PFODESampler(pf_ode.Options(**GRID, solver="Euler")),
}


def density():
    """Data of two modes."""
    weights, means, stds = ([0.3, 0.7], [-0.7, 0.5], [0.1, 0.2])
    return Mixture(*(jnp.array([values]) for values in (weights, means, stds)))


class Label(AbstractTimeEmbedding):
    """The noise label itself."""

    dim: ClassVar[int] = 1

    def __call__(self, c_noise):
        return c_noise


class Straight(AbstractNetwork):
    """The velocity `eps - x0` of the one pair whose line goes through `x_t`, times `scale`, plus `offset`.

    The pairs are interpolated between their knots, on which every line is then found exactly.
    """

    eps: jax.Array
    x0: jax.Array
    scale: jax.Array
    offset: jax.Array

    def __call__(self, x, c_noise, cond, *, key):
        t = c_noise[0]
        eps = jnp.interp(x, (1 - t) * self.x0 + t * self.eps, self.eps)
        return self.scale * (eps - self.end(eps)) + self.offset

    def end(self, eps):
        """Where the exact map takes a noise."""
        return jnp.interp(eps, self.eps, self.x0)


@pytest.fixture(scope="module")
def optimum():
    """The model that reflow learns from the pairs of a mixture's exact map."""
    with jax.enable_x64(True):
        eps, T = jnp.linspace(-5, 5, 401), PROCESS.t_max.astype(jnp.float64)
        exact = jax.vmap(lambda x: density().consistency(PROCESS, x, T))
        ends = jax.jit(exact)(starts(eps[:, None]))
        return Model(PARAM, Straight(eps, ends[:, 0], jnp.ones(()), jnp.zeros(())))


def gradient_of(loss, model, pairs):
    """The losses of pairs without their weight, and the gradient of their mean in the model."""
    scene = scene_for(model, proposal=Uniform())
    name = "distance" if isinstance(loss, reflow.ReflowDistillationLoss) else "mse"

    def mean(model):
        keys = jr.split(jr.key(2), pairs.x0.shape[0])
        out = jax.vmap(lambda s, k: loss(model, scene, s, key=k))(pairs, keys)
        return jnp.mean(out.metrics[name]), out.metrics[name]

    (_, values), grads = eqx.filter_jit(eqx.filter_value_and_grad(mean, has_aux=True))(model)
    return values, (grads.network.scale, grads.network.offset)


def starts(eps):
    """Where the sampler begins."""
    return PROCESS.sigma(PROCESS.t_max.astype(jnp.float64)) * eps


def some_pairs(model, n=64):
    eps = jr.normal(jr.key(0), (n, 1))
    return Sample(model.network.end(eps), eps=eps)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("distilled", [False, True])
def test_the_straight_flow_is_where_the_loss_ends(optimum, distilled, float64):
    loss = diffusion.DiffusionLoss(LogWeight(Label()), 0, reflow.Options())
    loss = reflow.ReflowDistillationLoss(L2()) if distilled else loss
    pairs = some_pairs(optimum)
    values, gradient = gradient_of(loss, optimum, pairs)
    assert float(values.max()) < 1e-10
    assert all(abs(float(g)) < 1e-4 for g in gradient)
    # Nowhere else, and not for other pairs of the same noise and samples.
    off = eqx.tree_at(lambda m: m.network.scale, optimum, jnp.asarray(1.1))
    values, gradient = gradient_of(loss, off, pairs)
    assert float(values.mean()) > 1e-4
    assert abs(float(gradient[0])) > 1e-3
    crossed = Sample(pairs.x0, eps=jr.permutation(jr.key(1), pairs.eps))
    assert float(gradient_of(loss, optimum, crossed)[0].mean()) > 0.1


def test_one_euler_step_is_the_exact_map(optimum, float64):
    pairs = some_pairs(optimum)
    start = starts(pairs.eps)
    for name, steps in (("ddim", 1), ("ddim", 4), ("pf-ode", 1)):

        def end(x, name=name, steps=steps):
            return EULER[name](optimum, x, UNCONDITIONED, steps=steps, key=jr.key(0)).x

        np.testing.assert_allclose(jax.jit(jax.vmap(end))(start), pairs.x0, atol=2e-5)


def test_a_flow_of_independent_pairs_needs_many_steps(float64):
    """One Euler step of it leads to the mean of the data, whatever the noise."""
    model = exact_model(PARAM, density())
    start = starts(jr.normal(jr.key(0), (64, 1)))
    x = jax.vmap(lambda x: EULER["ddim"](model, x, UNCONDITIONED, steps=1, key=jr.key(0)).x)(start)
    np.testing.assert_allclose(x, 0.3 * -0.7 + 0.7 * 0.5, atol=1e-4)
