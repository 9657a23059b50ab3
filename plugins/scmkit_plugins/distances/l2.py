"""The Euclidean distance, squared or not."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractDistance
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options:
    """Options of the Euclidean distance."""

    squared: bool = True
    """Whether the distance is squared."""


class L2(AbstractDistance):
    r"""$\|x - y\|^2$, or $\|x - y\|$, whose gradient is of unit length however near the two are."""

    squared: bool

    def __call__(self, x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
        square = jnp.sum((x - y) ** 2)
        if self.squared:
            return square
        # The root has no derivative at 0.
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def build(config: Options, context: Context, *, key: Key) -> L2:
    return L2(config.squared)


plugin = Plugin(
    name="l2",
    summary="the Euclidean distance, squared or not",
    provides={Slot.distance: build},
    config=Options,
)
