"""A block of DDPM++, and the options that say what it does."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.random as jr
from annotated_types import Ge, Lt
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractAttention,
    AbstractNorm,
    NormFactory,
)
from scmkit.types import Key
from scmkit_plugins.layers.convolution import Conv, xavier
from scmkit_plugins.layers.linear import Linear, dropout
from scmkit_plugins.layers.resample import FILTERS, downsample, upsample
from scmkit_plugins.layers.self_attention import over_positions
from scmkit_plugins.layers.unet_levels import Place, Resample
from scmkit_plugins.modulation.additive_group_norm import GroupNorm

Image = Float[Array, "h w c"]

SKIP_SCALE = math.sqrt(0.5)
"""Factor of every residual sum, which keeps its variance (arXiv 2011.13456, Appendix H)."""
SILENT = 1e-5
"""Gain of the layers a branch ends with."""


@dataclass(frozen=True)
class DDPMPPOptions:
    """Options of DDPM++; the defaults are EDM's network for CIFAR-10."""

    channels: Annotated[int, Ge(4)] = 128
    """Base of the channel counts."""
    multipliers: tuple[int, ...] = (2, 2, 2)
    """Channels of each level, in units of `channels`; each level halves the resolution."""
    blocks: Annotated[int, Ge(1)] = 4
    """Blocks per level of the encoder; one more in the decoder."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Image heights with attention: in each block of the encoder, in the last of the decoder."""
    heads: Annotated[int, Ge(1)] = 1
    """Attention heads."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.13
    """Probability of zeroing a feature between a block's convolutions in training."""
    embedding_multiplier: Annotated[int, Ge(1)] = 4
    """Features of the embedding of time and class, in units of `channels`."""
    resample: Literal["box", "fir"] = "box"
    """Filter between the levels: averages and repetition, or `1 3 3 1`."""
    decoupled: bool = False
    """In a flow map, whether the decoder is told where the jump ends, and all before it where it starts
    (Decoupled MeanFlow). Otherwise all is told both."""


class Attention(eqx.Module):
    """`W attention(norm(x))` over the positions, nearly silent at initialisation."""

    norm: GroupNorm
    qkv: Linear
    out: Linear
    heads: int = eqx.field(static=True)

    def __init__(self, channels: int, heads: int, *, key: Key) -> None:
        if channels % heads:
            raise ValueError(
                f"ddpmpp: {channels} channels do not divide into {heads} attention heads; set "
                f"ddpmpp.heads to a divisor, or change ddpmpp.channels"
            )
        k_qkv, k_out = jr.split(key)
        self.norm = GroupNorm(channels)
        self.qkv = xavier(Linear, channels, 3 * channels, gain=math.sqrt(0.2), key=k_qkv)
        self.out = xavier(Linear, channels, channels, gain=SILENT, key=k_out)
        self.heads = heads

    def __call__(self, x: Image, attention: AbstractAttention) -> Image:
        return self.out(over_positions(attention, self.qkv(self.norm(x)), self.heads))


class Block(eqx.Module):
    """`(skip(x) + conv(silu(norm(conv(silu(norm(x))), e)))) / sqrt(2)`, then attention likewise.

    The block of BigGAN (arXiv 2011.13456, Appendix H): skip path and first convolution resize, and only
    the second normalization sees the embedding.
    """

    norm0: GroupNorm
    conv0: Conv
    norm1: AbstractNorm
    conv1: Conv
    skip: Linear | None
    attention: Attention | None
    resample: Resample = eqx.field(static=True)
    options: DDPMPPOptions = eqx.field(static=True)

    def __init__(
        self,
        place: Place,
        config: DDPMPPOptions,
        *,
        norm: NormFactory,
        key: Key,
    ) -> None:
        in_, out = place.in_, place.out
        k_conv0, k_norm, k_conv1, k_skip, k_attention = jr.split(key, 5)
        bare = in_ == out and place.resample == "keep"
        self.norm0 = GroupNorm(in_)
        self.conv0 = xavier(Conv, in_, out, key=k_conv0)
        self.norm1 = norm(out, config.embedding_multiplier * config.channels, key=k_norm)
        self.conv1 = xavier(Conv, out, out, gain=SILENT, key=k_conv1)
        self.skip = None if bare else xavier(Linear, in_, out, key=k_skip)
        self.attention = Attention(out, config.heads, key=k_attention) if place.attends else None
        self.resample = place.resample
        self.options = config

    def __call__(
        self, x: Image, emb: Float[Array, " dim"], attention: AbstractAttention, *, key: Key | None
    ) -> Float[Array, "h2 w2 out"]:
        y = self.conv0(self._resized(jax.nn.silu(self.norm0(x))))
        y = self.conv1(dropout(jax.nn.silu(self.norm1(y, emb)), self.options.dropout, key))
        x = x if self.skip is None else self.skip(self._resized(x))
        x = SKIP_SCALE * (x + y)
        if self.attention is None:
            return x
        return SKIP_SCALE * (x + self.attention(x, attention))

    def _resized(self, x: Image) -> Float[Array, "h2 w2 c"]:
        if self.resample == "keep":
            return x
        return (downsample if self.resample == "down" else upsample)(
            x, FILTERS[self.options.resample]
        )
