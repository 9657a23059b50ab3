"""Models that are exact for Gaussian data `N(0, s^2)`, for any process."""

import jax.numpy as jnp

from scmkit import Model
from scmkit.interfaces import (
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractParameterization,
    Coefficients,
)


class Identity(AbstractNetwork):
    """Returns its input."""

    def __call__(self, x, c_noise, cond, *, key):
        return x


class Linear(AbstractParameterization):
    """`f = gain(t) x` with the gain of the posterior mean, or of the consistency function."""

    process: AbstractNoiseProcess
    sigma_data: float
    s: float
    consistency: bool = False

    def gain(self, t):
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        variance = alpha**2 * self.s**2 + sigma**2
        if self.consistency:
            return self.s / jnp.sqrt(variance)
        return alpha * self.s**2 / variance

    def coefficients(self, t):
        one = jnp.ones_like(t)
        return Coefficients(skip=self.gain(t), out=0 * t, in_=one, noise=t[None])

    def weight(self, t):
        return self.process.angular_weight(self.sigma_data, t)

    def velocity(self, F, x_t, t):
        return self.process.velocity_from_denoised(self.gain(t) * x_t, x_t, t)

    def jump(self, t, s):
        return self.ddim_jump(t, s)


def exact_model(process, s=0.2, *, consistency=False, sigma_data=0.5):
    """The exact denoiser, or the exact consistency function, as a model."""
    return Model(Linear(process, sigma_data, s, consistency), Identity())


def exact_end(process, x_t, t, s=0.2):
    """`f*(x_t, t) = s x_t / sqrt(alpha^2 s^2 + sigma^2)`."""
    return s * x_t / jnp.sqrt(process.alpha(t) ** 2 * s**2 + process.sigma(t) ** 2)
