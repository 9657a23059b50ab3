"""Group normalization after adding the embedding."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNorm, NormFactory
from scmkit.plugin import Context, NoOptions, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.convolution import xavier
from scmkit_plugins.layers.linear import Linear, last_axis
from scmkit_plugins.layers.normalize import group_norm, wide


class GroupNorm(eqx.Module):
    r"""$\gamma\, \mathrm{GroupNorm}(x) + \beta$ with $\epsilon = 10^{-6}$, learned per channel."""

    weight: Float[Array, " c"]
    bias: Float[Array, " c"]

    def __init__(self, channels: int) -> None:
        self.weight = jnp.ones(channels)
        self.bias = jnp.zeros(channels)

    def __call__(self, x: Float[Array, "*space c"]) -> Float[Array, "*space c"]:
        return group_norm(x, eps=1e-6) * last_axis(self.weight, x) + last_axis(self.bias, x)


class AdditiveGroupNorm(AbstractNorm):
    r"""$y = \gamma\, \mathrm{GroupNorm}(x + W e + b) + \beta$: the embedding shifts, before the norm.

    (DDPM, arXiv 2006.11239, Appendix B; so also DDPM++, arXiv 2011.13456.) A shift that the channels of
    a group have in common is lost.
    """

    affine: Linear
    norm: GroupNorm

    def __init__(self, channels: int, dim: int, *, key: Key) -> None:
        self.affine = xavier(Linear, dim, channels, key=key)
        self.norm = GroupNorm(channels)

    def __call__(
        self, x: Float[Array, "*space c"], emb: Float[Array, " dim"]
    ) -> Float[Array, "*space c"]:
        y = wide(x)
        return self.norm(y + last_axis(self.affine(emb), y)).astype(x.dtype)


def build(config: NoOptions, context: Context, *, key: Key) -> NormFactory:
    return AdditiveGroupNorm


plugin = Plugin(
    name="additive-group-norm",
    summary="Group normalization of the sum with the embedding (DDPM, arXiv 2006.11239)",
    provides={Slot.norm: build},
)
