"""The sum of absolute differences."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractDistance
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Scalar


class L1(AbstractDistance):
    r"""$\sum_i |x_i - y_i|$."""

    def __call__(self, x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
        return jnp.sum(jnp.abs(x - y))


plugin = Plugin(
    name="l1",
    summary="the sum of absolute differences",
    provides={Slot.distance: itself},
    config=L1,
    normalizes=lambda config: "--plugin distance=l2",
)
