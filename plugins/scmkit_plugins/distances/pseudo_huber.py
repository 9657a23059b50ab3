"""The pseudo-Huber distance: squared near zero, Euclidean far away."""

import math
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Gt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractDistance
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Scalar


class PseudoHuber(AbstractDistance):
    r"""$\sqrt{\|x - y\|^2 + c^2} - c$ with $c = constant \cdot \sqrt{D}$ (arXiv 2310.14189, Section 3.3)."""

    constant: Annotated[float, Gt(0)] = 0.00054
    """The constant of one value, times the root of the number of values."""

    def __call__(self, x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
        c = self.constant * math.sqrt(x.size)
        return jnp.sqrt(jnp.sum((x - y) ** 2) + c**2) - c


plugin = Plugin(
    name="pseudo-huber",
    summary="squared near zero, Euclidean far away (arXiv 2310.14189)",
    provides={Slot.distance: itself},
    config=PseudoHuber,
    normalizes=lambda config: "" if config.constant >= 1 else "--set pseudo-huber.constant=1",
)
