"""The cosine noise process."""

import math
from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Gt

from scmkit.interfaces import AbstractNoiseProcess
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar


class Cosine(AbstractNoiseProcess):
    r"""$x_t = \cos(\tfrac\pi2 t)\, x_0 + \sin(\tfrac\pi2 t)\, \varepsilon$, $t \in [0, 1)$.

    Variance preserving for data of unit variance (arXiv 2102.09672, Eq. 17, without its offset). It is
    TrigFlow's process for `sigma_data = 1`, in units of a quarter turn.
    """

    ratio_max: float = 80.0

    def alpha(self, t: Scalar) -> Scalar:
        return jnp.cos(math.pi / 2 * t)

    def sigma(self, t: Scalar) -> Scalar:
        return jnp.sin(math.pi / 2 * t)

    def time_at(self, ratio: Scalar) -> Scalar:
        return 2 / math.pi * jnp.arctan(ratio)


@dataclass(frozen=True)
class Options:
    """Options of the cosine process."""

    ratio_max: Annotated[float, Gt(0)] = 80.0
    """Noise-to-signal ratio at which sampling starts."""


def build(config: Options, context: Context, *, key: Key) -> Cosine:
    return Cosine(ratio_max=config.ratio_max)


plugin = Plugin(
    name="cosine",
    summary="cosine noise process: alpha = cos(pi t / 2), sigma = sin(pi t / 2)",
    provides={Slot.noise: build},
    config=Options,
)
