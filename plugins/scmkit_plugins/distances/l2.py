"""The Euclidean distance, squared or not."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractDistance
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Scalar


class L2(AbstractDistance):
    r"""$\|x - y\|^2$, or $\|x - y\|$, whose gradient is of unit length however near the two are."""

    squared: bool = True
    """Whether the distance is squared."""

    def __call__(self, x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
        square = jnp.sum((x - y) ** 2)
        if self.squared:
            return square
        # The root has no derivative at 0.
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


plugin = Plugin(
    name="l2",
    summary="the Euclidean distance, squared or not",
    provides={Slot.distance: itself},
    config=L2,
    normalizes=lambda config: "" if config.squared else "--set l2.squared=true",
)
