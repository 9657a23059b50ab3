r"""Closed forms for Gaussian data under any process, and networks that realize them exactly.

For data $N(m, s^2)$ in each coordinate and $V(t) = \alpha^2 s^2 + \sigma^2$:

- score $-(x_t - \alpha m) / V$,
- posterior mean $D = m + \alpha s^2 (x_t - \alpha m) / V$,
- PF-ODE velocity $\alpha' D + \sigma' (x_t - \alpha D) / \sigma$,
- consistency function $f(x_t, t) = m + s (x_t - \alpha m) / \sqrt V$.

Densities that are not Gaussian: `scmkit.data.Mixture`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractDensity,
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractParameterization,
    Conditioning,
)
from scmkit.models.model import Model
from scmkit.types import Key, Scalar


class Gaussian(AbstractDensity):
    """`N(mean, std^2)`, independent in each coordinate; both broadcast against a sample."""

    mean: Float[Array, "..."]
    std: Float[Array, "..."]

    @staticmethod
    def isotropic(std: float) -> "Gaussian":
        """`N(0, std^2 I)`, for samples of any shape."""
        return Gaussian(mean=jnp.zeros(()), std=jnp.asarray(std, jnp.float32))

    def affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "Gaussian":
        return Gaussian(mean=(self.mean - shift) * scale, std=self.std * jnp.abs(scale))

    def score(
        self, process: AbstractNoiseProcess, x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        """The gradient of the log density at time `t`."""
        alpha, mean, _, variance = self._at(process, x_t, t)
        return -(x_t - alpha * mean) / variance

    def denoise(
        self, process: AbstractNoiseProcess, x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        alpha, mean, std, variance = self._at(process, x_t, t)
        return mean + (alpha * std**2 / variance) * (x_t - alpha * mean)

    def velocity(
        self, process: AbstractNoiseProcess, x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        r"""The PF-ODE velocity.

        Written $\alpha' m + \tfrac12 \tfrac{V'}{V} (x_t - \alpha m)$, which no cancellation spoils.
        """
        _, mean, std, variance = self._at(process, x_t, t)
        alpha, sigma, d_alpha, d_sigma = (a.astype(x_t.dtype) for a in process.rates(t))
        growth = (alpha * d_alpha * std**2 + sigma * d_sigma) / variance
        return d_alpha * mean + growth * (x_t - alpha * mean)

    def consistency(
        self, process: AbstractNoiseProcess, x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        alpha, mean, std, variance = self._at(process, x_t, t)
        return mean + (std / jnp.sqrt(variance)) * (x_t - alpha * mean)

    def flow_map(
        self, process: AbstractNoiseProcess, x_t: Float[Array, "*shape"], t: Scalar, s: Scalar
    ) -> Float[Array, "*shape"]:
        alpha, mean, _, variance = self._at(process, x_t, t)
        alpha_s, _, _, variance_s = self._at(process, x_t, s)
        return alpha_s * mean + jnp.sqrt(variance_s / variance) * (x_t - alpha * mean)

    def _at(
        self, process: AbstractNoiseProcess, x_t: Float[Array, "*shape"], t: Scalar
    ) -> tuple[Scalar, Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
        """`alpha`, the data's mean and standard deviation, and the variance at `t`."""
        dtype = x_t.dtype
        alpha, sigma = process.alpha(t).astype(dtype), process.sigma(t).astype(dtype)
        mean, std = (jnp.broadcast_to(a, x_t.shape).astype(dtype) for a in (self.mean, self.std))
        return alpha, mean, std, (alpha * std) ** 2 + sigma**2


class ExactNetwork(AbstractNetwork):
    """The raw network with which a parameterization's `f` is exact for a density.

    `f` is the posterior mean, or with `consistency` the consistency function. Networks are told the
    noise label alone, so the time is found by inverting `coefficients(t).noise`, which must be
    monotone. Conditioning is ignored.
    """

    parameterization: AbstractParameterization
    density: AbstractDensity
    consistency: bool = False

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        t = self.time_at(c_noise)
        c = self.parameterization.coefficients(t)
        x_t = x / c.in_
        end = self.density.consistency if self.consistency else self.density.denoise
        return (end(self.parameterization.process, x_t, t) - c.skip * x_t) / c.out

    def time_at(self, c_noise: Float[Array, " k"]) -> Scalar:
        """The time whose first noise label is `c_noise[0]`; differentiable once."""
        process = self.parameterization.process

        def label(t: Scalar) -> Scalar:
            return self.parameterization.coefficients(t).noise[0]

        def time(log_ratio: Scalar) -> Scalar:
            return process.time_at(jnp.exp(log_ratio))

        wanted = jax.lax.stop_gradient(c_noise[0])
        # Far beyond the times in use, so that the smallest and the largest are not at an edge.
        low, high = (
            jnp.asarray(math.log(r), wanted.dtype) for r in (1e-8, 100 * process.ratio_max)
        )
        increasing = label(time(high)) > label(time(low))

        def halve(_: Any, bracket: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
            low, high = bracket
            middle = 0.5 * (low + high)
            above = (label(time(middle)) > wanted) == increasing
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        steps = jnp.finfo(wanted.dtype).nmant + 8
        low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
        t = jax.lax.stop_gradient(time(0.5 * (low + high)))
        # One Newton step polishes the root and gives it the derivative of the inverse function.
        found, slope = jax.jvp(label, (t,), (jnp.ones_like(t),))
        return t + (c_noise[0] - found) / slope


def exact_model(
    parameterization: AbstractParameterization,
    density: AbstractDensity,
    *,
    consistency: bool = False,
) -> Model:
    """A model that is exact for `density`: a diffusion model, or with `consistency` a consistency model.

    Works for every parameterization whose noise label is monotone in time.
    """
    network = ExactNetwork(parameterization, density, consistency)
    return Model(parameterization=parameterization, network=network)
