"""Noise processes: how data turns into noise."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.types import AbstractVar, Key, Scalar


class AbstractNoiseProcess(eqx.Module):
    r"""An affine Gaussian process, written with unit noise.

    $$x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon, \qquad \varepsilon \sim N(0, I)$$

    `sigma` is the true standard deviation of the noise, in the data's units. All such processes
    are one process up to a change of time and scale: the noise-to-signal ratio
    `sigma / alpha` is what two of them have in common at matched times
    (arXiv 2410.11081, Appendix B). Time grows from data to noise.
    """

    ratio_max: AbstractVar[float]
    """The noise-to-signal ratio at which sampling starts (80 throughout the literature)."""

    @abc.abstractmethod
    def alpha(self, t: Scalar) -> Scalar:
        """The factor of the data at time `t`."""

    @abc.abstractmethod
    def sigma(self, t: Scalar) -> Scalar:
        """The standard deviation of the noise at time `t`."""

    @abc.abstractmethod
    def time_at(self, ratio: Scalar) -> Scalar:
        """The time at which `sigma / alpha` equals `ratio`; increasing and differentiable."""

    def ratio(self, t: Scalar) -> Scalar:
        """The noise-to-signal ratio `sigma(t) / alpha(t)`."""
        return self.sigma(t) / self.alpha(t)

    @property
    def t_max(self) -> Scalar:
        """The time at which sampling starts: `time_at(ratio_max)`."""
        return self.time_at(jnp.asarray(self.ratio_max, jnp.float32))

    def perturb(
        self, x0: Float[Array, "*shape"], eps: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        """`alpha(t) x0 + sigma(t) eps`."""
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def rates(self, t: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        """`(alpha, sigma, alpha', sigma')` at time `t`."""
        one = jnp.ones_like(t)
        alpha, d_alpha = jax.jvp(self.alpha, (t,), (one,))
        sigma, d_sigma = jax.jvp(self.sigma, (t,), (one,))
        return alpha, sigma, d_alpha, d_sigma

    def velocity(
        self, x0: Float[Array, "*shape"], eps: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        """`alpha'(t) x0 + sigma'(t) eps`, the time derivative of `perturb` for fixed `x0`, `eps`.

        For VE this is `(x_t - x0) / t`, for TrigFlow `cos(t) z - sin(t) x0`: the sCT tangent.
        """
        _, _, d_alpha, d_sigma = self.rates(t)
        return d_alpha * x0 + d_sigma * eps

    def velocity_from_denoised(
        self, denoised: Float[Array, "*shape"], x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        """The PF-ODE velocity `alpha' D + sigma' (x_t - alpha D) / sigma` (needs `sigma > 0`)."""
        alpha, sigma, d_alpha, d_sigma = self.rates(t)
        return d_alpha * denoised + d_sigma * (x_t - alpha * denoised) / sigma

    def denoised_from_velocity(
        self, velocity: Float[Array, "*shape"], x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        """The `D` whose PF-ODE velocity at `x_t` is `velocity`: the inverse of `velocity_from_denoised`."""
        alpha, sigma, d_alpha, d_sigma = self.rates(t)
        return (velocity - (d_sigma / sigma) * x_t) / (d_alpha - d_sigma * alpha / sigma)

    def angular_weight(self, sigma_data: float, t: Scalar) -> Scalar:
        r"""The weight $w$ that turns this process's $df/dt$ into TrigFlow's $\cos\theta\, df/d\theta$.

        With $\rho = \sigma/\alpha$ and $\theta = \arctan(\rho/\sigma_d)$,
        $w = \cos\theta / \theta'(t) = \sqrt{\sigma_d^2 + \rho^2} / \rho'(t)$, so that one consistency
        objective serves every process (arXiv 2410.11081, Algorithm 1 and Appendix B).
        """
        ratio, d_ratio = jax.jvp(self.ratio, (t,), (jnp.ones_like(t),))
        return jnp.sqrt(sigma_data**2 + ratio**2) / d_ratio

    def prior(self, shape: tuple[int, ...], *, key: Key) -> Float[Array, "..."]:
        """A draw of `N(0, sigma(t_max)^2 I)`, where sampling starts."""
        eps = jr.normal(key, shape)
        return self.sigma(self.t_max.astype(eps.dtype)) * eps
