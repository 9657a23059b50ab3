"""Adaptive group normalization."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNorm, NormFactory
from scmkit.plugin import Context, NoOptions, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.linear import Linear, last_axis
from scmkit_plugins.layers.normalize import group_norm


class AdaptiveGroupNorm(AbstractNorm):
    r"""$y = (1 + s(e))\, \mathrm{GroupNorm}(x) + b(e)$ with `(s, b)` linear in the embedding.

    (ADM, arXiv 2105.05233, Section 4.3.) Its unbounded scale is what adaptive double normalization
    replaces in consistency models.
    """

    modulation: Linear

    def __init__(self, channels: int, dim: int, *, key: Key) -> None:
        self.modulation = Linear(dim, 2 * channels, key=key)

    def __call__(
        self, x: Float[Array, "*space c"], emb: Float[Array, " dim"]
    ) -> Float[Array, "*space c"]:
        s, b = jnp.split(self.modulation(emb), 2)
        return group_norm(x) * last_axis(1 + s, x) + last_axis(b, x)


def build(config: NoOptions, context: Context, *, key: Key) -> NormFactory:
    return AdaptiveGroupNorm


plugin = Plugin(
    name="adagn",
    summary="Adaptive group normalization (ADM, arXiv 2105.05233)",
    provides={Slot.norm: build},
)
