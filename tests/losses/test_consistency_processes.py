"""One consistency objective for all processes: TrigFlow's tangent, warmup and gradient, in float64."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scenes import scene_for
from scmkit_plugins.methods._tangent import ConsistencyLoss, ConsistencyOptions
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.preconditioned import Preconditioned
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

from scmkit import Model
from scmkit.interfaces import (
    AbstractNetwork,
    AbstractParameterization,
    AbstractTimeEmbedding,
    Point,
    Sample,
)
from scmkit.losses import LogWeight, eulerian, network_gain
from scmkit.models.change_of_process import velocity_under

SD, D = 0.5, 4
TRIG = TrigFlowParameterization(TrigFlowProcess(SD), SD)
PARAMS = {
    "trigflow": TRIG,
    "edm": EDMParameterization(VarianceExploding(), SD),
    "flow-matching": VelocityParameterization(RectifiedFlow(), SD),
    **{
        f"preconditioned {type(process).__name__}": Preconditioned(process, SD)
        for process in (TRIG.process, VarianceExploding(), RectifiedFlow(), VariancePreserving())
    },
}
KEYS = range(3)
"""Of the samples."""


class Net(AbstractNetwork):
    """A smooth network of everything it is given."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self):
        a, b = jr.split(jr.key(5))
        self.first = eqx.nn.Linear(D + 1, 8, key=a, dtype=jnp.float64)
        self.second = eqx.nn.Linear(8, D, key=b, dtype=jnp.float64)

    def __call__(self, x, c_noise, cond, *, key):
        return self.second(jnp.tanh(self.first(jnp.concatenate([x, c_noise]))))


class Label(AbstractTimeEmbedding):
    """The label itself, in float64 where the labels are."""

    dim: int = 1

    def __call__(self, c_noise):
        return c_noise


class Expressed(AbstractNetwork):
    """The network with which a parameterization's `f` is that of a TrigFlow model."""

    model: Model
    parameterization: AbstractParameterization

    def __call__(self, x, c_noise, cond, *, key):
        param = self.parameterization
        match param:
            case EDMParameterization():
                t = jnp.exp(4 * c_noise[0])
            case VelocityParameterization():
                t = c_noise[0]
            case _:
                t = param.process.time_at(SD * jnp.tan(c_noise[0]))
        c, angle = param.coefficients(t), jnp.arctan(param.process.ratio(t) / SD)
        x_t = x / c.in_
        f = self.model.denoise(x_t * (jnp.cos(angle) / param.process.alpha(t)), angle)
        return (f - c.skip * x_t) / c.out


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=PARAMS)
def param(request):
    return PARAMS[request.param]


def core():
    return Model(TRIG, Net())


def expressed(model, param):
    return Model(param, Expressed(model, param))


def terms(model, x_t, dx, t):
    """The Eulerian kernel as sCM calls it."""
    point = Point(x_t, x_t, x_t, t)  # Neither data nor noise is looked at.
    return eulerian(model, point, dx, weight=model.parameterization.weight(t))


def points(process):
    """Samples of the loss below at `process`: data, noise, and the same place on it for every process."""
    x0 = SD * jr.normal(jr.key(9), (len(KEYS), D))
    eps = jr.normal(jr.key(10), x0.shape)
    ratio = jnp.geomspace(0.01, 60.0, len(KEYS))
    return x0, eps, jax.vmap(process.time_at)(ratio)


def test_terms_are_trigflows(param):
    """Against plain autodiff and Algorithm 1; and a student that equals its teacher stands still."""

    def errors(x0, eps, t):
        net, process = core(), param.process
        model = expressed(net, param)
        x_t, dx = process.perturb(x0, eps, t), process.velocity(x0, eps, t)
        _, stable, whole = terms(model, x_t, dx, t)
        _, df = jax.jvp(model.denoise, (x_t, t), (dx, jnp.ones_like(t)))
        angle = jnp.arctan(process.ratio(t) / SD)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        y, dy = cos * x0 + SD * sin * eps, SD * cos * eps - sin * x0
        F, dF = jax.jvp(net.raw, (y, angle), (dy, jnp.ones_like(t)))
        expected = -(cos**2) * (SD * F - dy), -cos * sin * (y + SD * dF)
        _, still, _ = terms(model, x_t, velocity_under(process, net, x_t, t), t)
        pairs = (
            (whole, param.weight(t) * df),
            (stable, expected[0]),
            (whole, sum(expected)),
            (still, 0),
        )
        scale = jnp.abs(jnp.stack(expected)).max()
        return jnp.stack([jnp.abs(a - b).max() / scale for a, b in pairs])

    for point in zip(*points(param.process), strict=True):
        np.testing.assert_array_less(errors(*point), 1e-11)


def make_loss():
    return ConsistencyLoss(
        log_weight=LogWeight(Label()),
        options=ConsistencyOptions(warmup_steps=10),
    )


def gradients(model_of, process):
    """The losses of a few samples in the middle of the warmup, and their gradients in one network."""

    def value(net, x0, key):
        model = model_of(net)
        return make_loss()(model, scene_for(model, step=4), Sample(x0), key=key).value

    samples = SD * jr.normal(jr.key(9), (len(KEYS), D))
    found = [
        eqx.filter_value_and_grad(value)(core(), x0, jr.key(k))
        for x0, k in zip(samples, KEYS, strict=True)
    ]
    return jax.tree.leaves(found)


@functools.cache
def trigflows():
    return gradients(lambda model: model, TRIG.process)


def test_gradients_are_trigflows(param):
    """Sample by sample, of one network expressed under both parameterizations."""
    ours = gradients(lambda model: expressed(model, param), param.process)
    for a, b in zip(ours, trigflows(), strict=True):
        assert float(jnp.abs(b).max()) > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("ratio", [0.02, 0.5, 7.0, 80.0])
def test_gain(ratio):
    expected = {"trigflow": 1, "edm": -1, "flow-matching": np.hypot(ratio, SD) / SD / (1 + ratio)}
    for name, param in PARAMS.items():
        gain = network_gain(param, param.process.time_at(jnp.asarray(ratio)))
        np.testing.assert_allclose(gain, expected.get(name, 1), rtol=1e-12)
