"""Adaptive layer normalization."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractGate, AbstractNorm, GatedNormFactory
from scmkit.plugin import Context, NoOptions, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.linear import Linear, last_axis
from scmkit_plugins.layers.normalize import layer_norm


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


class LinearGate(AbstractGate):
    r"""$\alpha(e)$, linear in the embedding and zero at first: adaLN-Zero's gate."""

    modulation: Linear

    def __init__(self, channels: int, dim: int, *, key: Key) -> None:
        self.modulation = Linear(dim, channels, scale=0, key=key)

    def __call__(self, emb: Float[Array, " dim"]) -> Float[Array, " c"]:
        return self.modulation(emb)


@dataclass(frozen=True)
class AdaLNZero:
    """What fills the norm slot: the layers, and the gates of the branches behind them."""

    def __call__(self, channels: int, dim: int, *, key: Key) -> AbstractNorm:
        return AdaptiveLayerNorm(channels, dim, key=key)

    def gate(self, channels: int, dim: int, *, key: Key) -> AbstractGate:
        return LinearGate(channels, dim, key=key)


def build(config: NoOptions, context: Context, *, key: Key) -> GatedNormFactory:
    return AdaLNZero()


plugin = Plugin(
    name="adaln",
    summary="Adaptive layer normalization, zero-initialised, with gates (DiT, arXiv 2212.09748)",
    provides={Slot.norm: build},
)
