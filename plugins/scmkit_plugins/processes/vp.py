"""Variance preserving: DDPM's linear schedule in continuous time."""

from typing import Annotated

import jax.numpy as jnp
from annotated_types import Ge, Gt

from scmkit.interfaces import AbstractNoiseProcess
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Scalar


class VariancePreserving(AbstractNoiseProcess):
    r"""$\alpha^2 + \sigma^2 = 1$ with $\beta(t) = \beta_0 + t(\beta_1 - \beta_0)$, $t \in (0, 1]$.

    $\log\alpha = -\tfrac14 t^2 (\beta_1 - \beta_0) - \tfrac12 t \beta_0$ (arXiv 2011.13456, Eq. 33).
    """

    beta0: Annotated[float, Ge(0)] = 0.1
    """Rate of the noise at t = 0."""
    beta1: Annotated[float, Gt(0)] = 20.0
    """Rate of the noise at t = 1."""
    ratio_max: Annotated[float, Gt(0)] = 80.0
    """Noise-to-signal ratio at which sampling starts."""

    def __check_init__(self) -> None:
        if self.beta1 <= self.beta0:
            raise ValueError(f"beta1={self.beta1} must exceed beta0={self.beta0}")

    def _log_alpha(self, t: Scalar) -> Scalar:
        return -0.25 * t**2 * (self.beta1 - self.beta0) - 0.5 * t * self.beta0

    def alpha(self, t: Scalar) -> Scalar:
        return jnp.exp(self._log_alpha(t))

    def sigma(self, t: Scalar) -> Scalar:
        return jnp.sqrt(-jnp.expm1(2 * self._log_alpha(t)))

    def time_at(self, ratio: Scalar) -> Scalar:
        # The root of a quadratic in t, in the form that does not cancel for small ratios.
        c = jnp.log1p(ratio**2)
        slope = self.beta1 - self.beta0
        return 2 * c / (self.beta0 + jnp.sqrt(self.beta0**2 + 2 * slope * c))


plugin = Plugin(
    name="vp",
    summary="variance-preserving process, linear schedule (arXiv 2011.13456)",
    provides={Slot.noise: itself},
    config=VariancePreserving,
)
