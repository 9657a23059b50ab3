"""Models whose jumps lead where they are told: along the exact path of Gaussian data, or elsewhere."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax.numpy as jnp
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.preconditioned import Preconditioned
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

from scmkit import Model
from scmkit.interfaces import (
    AbstractDensity,
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractTangentEstimator,
    Point,
)
from scmkit.losses import ddim
from scmkit.sampling import angle_of, time_at_angle
from scmkit.testing import Gaussian

SD = 0.5
PARAMS = {
    "trigflow": TrigFlowParameterization(TrigFlowProcess(SD), SD),
    "edm": EDMParameterization(VarianceExploding(), SD),
    "flow": VelocityParameterization(RectifiedFlow(), SD),
    "vp": Preconditioned(VariancePreserving(), SD),
}


TIMES = {
    "trigflow": lambda label: label,
    "edm": lambda label: jnp.exp(4 * label),
    "flow": lambda label: label,
    "vp": lambda label: VariancePreserving().time_at(SD * jnp.tan(label)),
}
"""The time of a noise label."""


def density():
    """The data, whose paths have closed forms."""
    return Gaussian(mean=jnp.asarray(0.2), std=jnp.asarray(0.3))


class Leading(AbstractNetwork):
    """The network with which a jump leads where `to(x_t, t, s)` does; `s` is as told, else the start of the
    segment of `t`."""

    name: str
    to: Callable = eqx.field(static=True)
    segments: int = 1

    def __call__(self, x, c_noise, cond, *, key):
        param = PARAMS[self.name]
        t, *told = (TIMES[self.name](label) for label in c_noise)
        most = jnp.arctan(param.process.ratio_max / param.sigma_data)
        k = jnp.ceil(angle_of(param, t) / most * self.segments - 1e-5) - 1
        s = told[0] if told else time_at_angle(param, most * k / self.segments)
        x_t = x / param.coefficients(t).in_
        a, b = param.jump(t, s)
        return (self.to(x_t, t, s) - a * x_t) / jnp.where(b == 0, 1, b)


def exact(name, segments=1, *, labels=1):
    """A model whose DDIM step to the start of its segment, or to the time it is told, is exact."""
    flow = partial(density().flow_map, PARAMS[name].process)
    return Model(PARAMS[name], Leading(name, flow, segments), noise_labels=labels)


def known(name, number=0.3):
    """A model that denoises everything to one number."""
    process = PARAMS[name].process
    return Model(
        PARAMS[name],
        Leading(name, lambda x, t, s: ddim(process, x, jnp.full_like(x, number), t, s)),
    )


def denoiser(name):
    """The diffusion model of these data."""
    process = PARAMS[name].process
    to = lambda x, t, s: ddim(process, x, density().denoise(process, x, t), t, s)  # noqa: E731
    return Model(PARAMS[name], Leading(name, to))


class Solver(AbstractTangentEstimator):
    """The teacher's ODE of a density, solved exactly."""

    process: AbstractNoiseProcess
    density: AbstractDensity

    def __call__(self, point):
        denoised = self.density.denoise(self.process, point.x_t, point.t)
        return self.process.velocity_from_denoised(denoised, point.x_t, point.t)

    def advance(self, point, r):
        x_r = self.density.flow_map(self.process, point.x_t, point.t, r)
        return Point(point.x0, point.eps, x_r, r, point.cond)
