"""A block of EDM2's U-Net, and the options that say what it does."""

from dataclasses import dataclass
from typing import Annotated, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractAttention,
    AbstractNorm,
    NormFactory,
)
from scmkit.types import Key
from scmkit_plugins.layers.linear import dropout
from scmkit_plugins.layers.magnitude import (
    MPLayer,
    mp_pixel_norm,
    mp_silu,
    mp_sum,
)
from scmkit_plugins.layers.resample import double, halve
from scmkit_plugins.layers.self_attention import over_positions
from scmkit_plugins.layers.unet_levels import Place, Resample

Image = Float[Array, "h w c"]

CHANNELS = {"xxs": 64, "xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
"""Channels at full resolution of each preset (EDM2's training configurations)."""


@dataclass(frozen=True)
class EDM2Options:
    """Options of EDM2's U-Net."""

    preset: Literal["xxs", "xs", "s", "m", "l", "xl", "xxl"] = "xs"
    """Size of the network: 64 to 448 channels at full resolution."""
    channels: Annotated[int, Ge(1)] | None = None
    """Channels at full resolution; the preset's if none are given."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Channels of each level, in units of `channels`; each level halves the resolution."""
    blocks: Annotated[int, Ge(1)] = 3
    """Blocks per level of the encoder; one more in the decoder."""
    attention_resolutions: tuple[int, ...] = (16, 8)
    """Image heights at which blocks end with attention; the first of the decoder always does."""
    head_dim: Annotated[int, Ge(1)] = 64
    """Channels per attention head."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of zeroing a feature between a block's convolutions in training."""
    dropout_resolution: Annotated[int, Ge(1)] = 16
    """Largest image height at which features are dropped: 16 in sCM; EDM2 drops at all heights."""
    label_balance: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the class in the embedding, against time."""
    concat_balance: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the encoder's activations in the decoder's inputs."""
    residual_balance: Annotated[float, Ge(0), Le(1)] = 0.3
    """Share of the residual branch in a block's output."""
    decoupled: bool = False
    """In a flow map, whether the decoder is told where the jump ends, and all before it where it starts
    (Decoupled MeanFlow). Otherwise all is told both."""
    attention_balance: Annotated[float, Ge(0), Le(1)] = 0.3
    """Share of attention in a block's output."""
    clip: Annotated[float, Gt(0)] | None = 256.0
    """Bound of a block's output; null for none."""
    remat: Literal["none", "full"] = "none"
    """What the backward pass recomputes: nothing, or every block from its input."""


class Attention(eqx.Module):
    """Self-attention over the positions, of queries, keys and values of unit RMS."""

    qkv: MPLayer
    out: MPLayer
    head_dim: int = eqx.field(static=True)

    def __init__(self, channels: int, head_dim: int, *, key: Key) -> None:
        if channels % head_dim:
            raise ValueError(
                f"edm2: {channels} channels do not divide into attention heads of {head_dim}; set "
                f"edm2.head_dim to a divisor, or change edm2.channels"
            )
        k_qkv, k_out = jr.split(key)
        self.qkv = MPLayer(channels, 3 * channels, 1, key=k_qkv)
        self.out = MPLayer(channels, channels, 1, key=k_out)
        self.head_dim = head_dim

    def __call__(self, x: Image, attention: AbstractAttention) -> Image:
        heads = x.shape[-1] // self.head_dim
        return self.out(over_positions(attention, self.qkv(x), heads, mp_pixel_norm))


class Block(eqx.Module):
    """A block of the encoder or decoder (arXiv 2312.02696, Figure 21), the modulation from the norm slot.

    The encoder normalises its input at each position; the decoder changes channels on its way out.
    """

    conv0: MPLayer
    modulation: AbstractNorm
    conv1: MPLayer
    skip: MPLayer | None
    attention: Attention | None
    decoder: bool = eqx.field(static=True)
    resample: Resample = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    options: EDM2Options = eqx.field(static=True)

    def __init__(
        self,
        place: Place,
        dim: int,
        config: EDM2Options,
        *,
        decoder: bool,
        norm: NormFactory,
        key: Key,
    ) -> None:
        in_, out = place.in_, place.out
        k_conv0, k_modulation, k_conv1, k_skip, k_attention = jr.split(key, 5)
        self.conv0 = MPLayer(in_ if decoder else out, out, 3, key=k_conv0)
        self.modulation = norm(out, dim, key=k_modulation)
        self.conv1 = MPLayer(out, out, 3, key=k_conv1)
        self.skip = None if in_ == out else MPLayer(in_, out, 1, key=k_skip)
        self.attention = Attention(out, config.head_dim, key=k_attention) if place.attends else None
        self.decoder = decoder
        self.resample = place.resample
        self.dropout = config.dropout if place.side <= config.dropout_resolution else 0.0
        self.options = config

    def __call__(
        self, x: Image, emb: Float[Array, " dim"], attention: AbstractAttention, key: Key | None
    ) -> Float[Array, "h2 w2 out"]:
        if self.resample != "keep":
            x = halve(x) if self.resample == "down" else double(x)
        if not self.decoder:
            x = mp_pixel_norm(x if self.skip is None else self.skip(x))
        y = mp_silu(self.modulation(self.conv0(mp_silu(x)), emb))
        y = self.conv1(dropout(y, self.dropout, key))
        if self.decoder and self.skip is not None:
            x = self.skip(x)
        o = self.options
        x = mp_sum(x, y, o.residual_balance)
        if self.attention is not None:
            x = mp_sum(x, self.attention(x, attention), o.attention_balance)
        return x if o.clip is None else jnp.clip(x, -o.clip, o.clip)
