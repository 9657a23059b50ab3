r"""Exponential moving averages of the parameters.

$$\bar\theta_n = \beta_n \bar\theta_{n-1} + (1 - \beta_n)\, \theta_n, \qquad n = 1, 2, \dots$$

`n` counts optimizer updates. The first update replaces the average in every profile, so that the
initial weights leave no trace.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from scmkit.errors import OptionError
from scmkit.interfaces import AbstractEMA
from scmkit.settings import ema_profile
from scmkit.types import Scalar


class HalfLifeEMA(AbstractEMA):
    r"""A half-life in images, ramped up so that early averages stay short.

    $$\beta = 2^{-\text{batch} / h}, \qquad
    h = \min(\text{half\_life},\ \text{rampup} \cdot \text{images})$$

    with the images seen before this update (EDM, arXiv 2206.00364, `training_loop.py`).
    """

    half_life: float
    """Images after which a contribution has lost half its weight."""
    batch_size: int
    """Images per update."""
    rampup: float = 0.05
    """The longest half-life, as a fraction of the images seen so far."""

    def __check_init__(self):
        for name in ("half_life", "batch_size", "rampup"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise OptionError(f"EMA {name} is {value}; give a finite number above 0")

    def gain(self, step: Int[Array, ""]) -> Scalar:
        """`1 - 2^(-batch_size / h)`, by `expm1`; 1 at the first update."""
        seen = self.batch_size * jnp.maximum(step.astype(jnp.float32) - 1, 0)
        half_life = jnp.minimum(self.half_life, self.rampup * seen)
        return -jnp.expm1(-math.log(2) * self.batch_size / half_life)


class PowerEMA(AbstractEMA):
    r"""The power-function profile: the parameters of update $i$ weigh in with about $i^\gamma$.

    $$\beta_n = (1 - 1/n)^{\gamma + 1}, \qquad
    \sigma_\text{rel}^2 = \frac{\gamma + 1}{(\gamma + 2)^2 (\gamma + 3)}$$

    so that the profile's width is always the same fraction of the training so far (EDM2, arXiv
    2312.02696, section 3.1 and Appendix C).
    """

    sigma_rel: float
    """The profile's standard deviation as a fraction of the training so far, at most 0.288."""

    def __check_init__(self):
        # At the upper end gamma is 0: the plain mean. Wider profiles would favour the oldest.
        if not 0 < self.sigma_rel <= math.sqrt(1 / 12):
            raise OptionError(
                f"power EMA width is {self.sigma_rel}; give a number above 0 and up to 0.288, "
                "such as 0.05"
            )

    @property
    def gamma(self) -> float:
        """The profile's exponent: 16.97 for a width of 0.05, 6.94 for 0.10."""
        inverse = self.sigma_rel**-2
        return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())

    def gain(self, step: Int[Array, ""]) -> Scalar:
        """`1 - (1 - 1/step)^(gamma + 1)`, by `log1p` and `expm1`; 1 at the first update."""
        n = jnp.maximum(step.astype(jnp.float32), 1)
        return -jnp.expm1((self.gamma + 1) * jnp.log1p(-1 / n))


class NoEMA(AbstractEMA):
    """No averaging: the average is the newest parameters."""

    def gain(self, step: Int[Array, ""]) -> Scalar:
        """1."""
        return jnp.ones((), jnp.float32)


def parse_ema(text: str, batch_size: int) -> AbstractEMA:
    """`"power:0.05"` (relative width), `"half-life:500000"` (images) or `"none"`.

    Raises `OptionError`.
    """
    try:
        name, number = ema_profile(text)
    except ValueError as error:
        raise OptionError(str(error)) from None
    if name == "none":
        return NoEMA()
    return PowerEMA(number) if name == "power" else HalfLifeEMA(number, batch_size)
