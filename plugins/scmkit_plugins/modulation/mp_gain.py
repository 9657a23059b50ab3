"""EDM2's modulation: a gain from the embedding, and no normalization."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNorm, NormFactory
from scmkit.plugin import Context, NoOptions, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.layers.linear import last_axis
from scmkit_plugins.layers.magnitude import MPLayer


class MPGain(AbstractNorm):
    r"""$y = x\,(1 + g\, \hat W e)$ with a learned gain $g$ that starts at zero.

    The network keeps the magnitude of `x` by itself (EDM2, arXiv 2312.02696, Figure 21). It is what
    adaptive double normalization replaces in consistency models.
    """

    linear: MPLayer
    gain: Scalar

    def __init__(self, channels: int, dim: int, *, key: Key) -> None:
        self.linear = MPLayer(dim, channels, key=key)
        self.gain = jnp.zeros(())

    def __call__(
        self, x: Float[Array, "*space c"], emb: Float[Array, " dim"]
    ) -> Float[Array, "*space c"]:
        return x * last_axis(1 + self.linear(emb, self.gain), x)


def build(config: NoOptions, context: Context, *, key: Key) -> NormFactory:
    return MPGain


plugin = Plugin(
    name="mp-gain",
    summary="Magnitude-preserving gain from the embedding (EDM2, arXiv 2312.02696)",
    provides={Slot.norm: build},
)
