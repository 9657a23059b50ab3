"""Variance preserving: DDPM's linear schedule in continuous time."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Ge, Gt

from scmkit.interfaces import AbstractNoiseProcess
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar


class VariancePreserving(AbstractNoiseProcess):
    r"""$\alpha^2 + \sigma^2 = 1$ with $\beta(t) = \beta_0 + t(\beta_1 - \beta_0)$, $t \in (0, 1]$.

    $\log\alpha = -\tfrac14 t^2 (\beta_1 - \beta_0) - \tfrac12 t \beta_0$ (arXiv 2011.13456, Eq. 33).
    """

    beta0: float = 0.1
    beta1: float = 20.0
    ratio_max: float = 80.0

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


@dataclass(frozen=True)
class Options:
    """Options of the variance-preserving process."""

    beta0: Annotated[float, Ge(0)] = 0.1
    """Rate of the noise at t = 0."""
    beta1: Annotated[float, Gt(0)] = 20.0
    """Rate of the noise at t = 1."""
    ratio_max: Annotated[float, Gt(0)] = 80.0
    """Noise-to-signal ratio at which sampling starts."""

    def __post_init__(self) -> None:
        if self.beta1 <= self.beta0:
            raise ValueError(f"beta1={self.beta1} must exceed beta0={self.beta0}")


def build_process(config: Options, context: Context, *, key: Key) -> VariancePreserving:
    return VariancePreserving(config.beta0, config.beta1, config.ratio_max)


plugin = Plugin(
    name="vp",
    summary="variance-preserving process, linear schedule (arXiv 2011.13456)",
    provides={Slot.noise: build_process},
    config=Options,
)
