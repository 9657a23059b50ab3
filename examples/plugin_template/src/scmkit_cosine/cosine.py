"""The cosine noise process."""

import math
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Gt

from scmkit.interfaces import AbstractNoiseProcess
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Scalar


class Cosine(AbstractNoiseProcess):
    r"""$x_t = \cos(\tfrac\pi2 t)\, x_0 + \sin(\tfrac\pi2 t)\, \varepsilon$, $t \in [0, 1)$.

    Variance preserving for data of unit variance (arXiv 2102.09672, Eq. 17, without its offset). It is
    TrigFlow's process for `sigma_data = 1`, in units of a quarter turn.
    """

    ratio_max: Annotated[float, Gt(0)] = 80.0
    """Noise-to-signal ratio at which sampling starts."""

    def alpha(self, t: Scalar) -> Scalar:
        return jnp.cos(math.pi / 2 * t)

    def sigma(self, t: Scalar) -> Scalar:
        return jnp.sin(math.pi / 2 * t)

    def time_at(self, ratio: Scalar) -> Scalar:
        return 2 / math.pi * jnp.arctan(ratio)


plugin = Plugin(
    name="cosine",
    summary="cosine noise process: alpha = cos(pi t / 2), sigma = sin(pi t / 2)",
    provides={Slot.noise: itself},
    config=Cosine,
)
