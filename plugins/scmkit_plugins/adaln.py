"""Adaptive layer normalization."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNorm, NormFactory
from scmkit.plugin import Context, NoOptions, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins._layers import Linear, last_axis
from scmkit_plugins._normalize import layer_norm


class AdaptiveLayerNorm(AbstractNorm):
    r"""$y = (1 + s(e))\, \mathrm{LayerNorm}(x) + b(e)$ with `(s, b)` linear in the embedding.

    The modulation starts at zero, so that the layer starts as a plain layer normalization
    (DiT's adaLN-Zero, arXiv 2212.09748, Section 3.2).
    """

    modulation: Linear

    def __init__(self, channels: int, dim: int, *, key: Key) -> None:
        self.modulation = Linear(dim, 2 * channels, scale=0, key=key)

    def __call__(
        self, x: Float[Array, "*space c"], emb: Float[Array, " dim"]
    ) -> Float[Array, "*space c"]:
        s, b = jnp.split(self.modulation(emb), 2)
        return layer_norm(x) * last_axis(1 + s, x) + last_axis(b, x)


def build(config: NoOptions, context: Context, *, key: Key) -> NormFactory:
    return AdaptiveLayerNorm


plugin = Plugin(
    name="adaln",
    summary="Adaptive layer normalization, zero-initialised (DiT, arXiv 2212.09748)",
    provides={Slot.norm: build},
)
