"""DDPM++, the U-Net of Score SDE as EDM trained it."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Lt
from jaxtyping import Array, Float

from scmkit.errors import UsageError
from scmkit.interfaces import (
    AbstractAttention,
    AbstractNetwork,
    AbstractNorm,
    AbstractTimeEmbedding,
    Conditioning,
    NormFactory,
)
from scmkit.models.conditioning import ScalarConditions, SecondLabel
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.convolution import Conv, xavier
from scmkit_plugins.layers.linear import Linear, dropout, layer_keys
from scmkit_plugins.layers.resample import FILTERS, check_halvings, downsample, upsample
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
        h, w, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(h * w, 3, self.heads, c // self.heads)
        return self.out(attention(qkv[:, 0], qkv[:, 1], qkv[:, 2]).reshape(h, w, c))


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
    resample: Literal["keep", "down", "up"] = eqx.field(static=True)
    taps: tuple[int, ...] = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        in_: int,
        out: int,
        config: DDPMPPOptions,
        *,
        resample: Literal["keep", "down", "up"] = "keep",
        attend: bool = False,
        norm: NormFactory,
        key: Key,
    ) -> None:
        k_conv0, k_norm, k_conv1, k_skip, k_attention = jr.split(key, 5)
        bare = in_ == out and resample == "keep"
        self.norm0 = GroupNorm(in_)
        self.conv0 = xavier(Conv, in_, out, key=k_conv0)
        self.norm1 = norm(out, config.embedding_multiplier * config.channels, key=k_norm)
        self.conv1 = xavier(Conv, out, out, gain=SILENT, key=k_conv1)
        self.skip = None if bare else xavier(Linear, in_, out, key=k_skip)
        self.attention = Attention(out, config.heads, key=k_attention) if attend else None
        self.resample = resample
        self.taps = FILTERS[config.resample]
        self.dropout = config.dropout

    def __call__(
        self, x: Image, emb: Float[Array, " dim"], attention: AbstractAttention, *, key: Key | None
    ) -> Float[Array, "h2 w2 out"]:
        y = self.conv0(self._resized(jax.nn.silu(self.norm0(x))))
        y = self.conv1(dropout(jax.nn.silu(self.norm1(y, emb)), self.dropout, key))
        x = x if self.skip is None else self.skip(self._resized(x))
        x = SKIP_SCALE * (x + y)
        if self.attention is None:
            return x
        return SKIP_SCALE * (x + self.attention(x, attention))

    def _resized(self, x: Image) -> Float[Array, "h2 w2 c"]:
        if self.resample == "keep":
            return x
        return (downsample if self.resample == "down" else upsample)(x, self.taps)


class Mapping(eqx.Module):
    """Two linear layers with SiLU on the sum of the time features and the class's, always float32."""

    embedding: AbstractTimeEmbedding
    label: Linear | None
    layer0: Linear
    layer1: Linear
    scalars: ScalarConditions
    end: SecondLabel | None

    def __init__(self, dim: int, context: Context, *, key: Key) -> None:
        k_label, k_layer0, k_layer1 = jr.split(key, 3)
        features, classes = context.embedding.dim, context.data.num_classes
        self.embedding = context.embedding
        self.label = xavier(Linear, classes, features, key=k_label) if classes else None
        self.layer0 = xavier(Linear, features, dim, key=k_layer0)
        self.layer1 = xavier(Linear, dim, dim, key=k_layer1)
        self.scalars = ScalarConditions(context.conditions, features)
        self.end = SecondLabel(features, features) if context.noise_labels == 2 else None

    def __call__(self, c_noise: Float[Array, " k"], cond: Conditioning) -> Float[Array, " dim"]:
        """The embedding; no label is a class vector of zeros, which leaves the bias."""
        features = self.embedding(c_noise[:1])
        if self.end is not None:
            features = features + self.end(self.embedding(c_noise[1:]))
        label = cond.label
        if self.label is not None:
            # A one-hot vector times the square root of the number of classes picks a row.
            classes = self.label.weight.shape[0]
            rows = jnp.pad(math.sqrt(classes) * self.label.weight, ((0, 1), (0, 0)))
            row = rows[jnp.asarray(classes) if label is None else label]
            features = features + row + self.label.bias
        elif label is not None:
            raise UsageError("this network was built without classes but was given a label")
        emb = self.layer0(features + self.scalars(cond))
        return jax.nn.silu(self.layer1(jax.nn.silu(emb)))


class DDPMPP(AbstractNetwork):
    """DDPM++ (arXiv 2011.13456, Appendix H) in the configuration of EDM (arXiv 2206.00364, Table 1).

    The published network takes `positional` features of as many `channels` and the norm
    `additive-group-norm`; with `adaptive-double-norm` of `norm=group` it is sCM's (arXiv 2410.11081,
    Section 4.1). Its norms have an epsilon of 1e-6, where the slot's may have another.
    """

    conditioning: Mapping
    attention: AbstractAttention
    first: Conv
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]
    norm: GroupNorm
    last: Conv

    def __init__(self, config: DDPMPPOptions, context: Context, *, key: Key) -> None:
        levels = len(config.multipliers)
        check_halvings("ddpmpp", context.data.shape, levels)
        images, height, _ = context.data.shape
        widths = [config.channels * m for m in config.multipliers]
        attends = [height >> level in config.attention_resolutions for level in range(levels)]
        keys = iter(jr.split(key, 4 + levels * (2 * config.blocks + 3)))

        def block(in_: int, out: int, resample: str = "keep", attend: bool = False) -> Block:
            return Block(
                in_,
                out,
                config,
                resample=resample,  # pyright: ignore[reportArgumentType]
                attend=attend,
                norm=context.norm,
                key=next(keys),
            )

        dim = config.embedding_multiplier * config.channels
        self.conditioning = Mapping(dim, context, key=next(keys))
        self.attention = context.attention
        self.first = xavier(Conv, images, config.channels, key=next(keys))
        encoder, width = [], config.channels
        skips = [width]
        for level, out in enumerate(widths):
            if level:
                encoder.append(block(width, width, "down"))
                skips.append(width)
            for _ in range(config.blocks):
                encoder.append(block(width, out, attend=attends[level]))
                skips.append(out)
                width = out
        decoder = [block(width, width, attend=True), block(width, width)]
        for level, out in reversed(list(enumerate(widths))):
            if level < levels - 1:
                decoder.append(block(width, width, "up"))
            for i in range(config.blocks + 1):
                attend = attends[level] and i == config.blocks
                decoder.append(block(width + skips.pop(), out, attend=attend))
                width = out
        self.encoder, self.decoder = tuple(encoder), tuple(decoder)
        self.norm = GroupNorm(width)
        self.last = xavier(Conv, width, images, gain=SILENT, key=next(keys))

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        emb = self.conditioning(c_noise, cond)
        keys = layer_keys(key, len(self.encoder) + len(self.decoder))
        h = self.first(jnp.moveaxis(x, 0, -1))
        skips = [h]
        for block in self.encoder:
            h = block(h, emb, self.attention, key=next(keys))
            skips.append(h)
        for block in self.decoder:
            if block.conv0.weight.shape[-2] > h.shape[-1]:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = block(h, emb, self.attention, key=next(keys))
        return jnp.moveaxis(self.last(jax.nn.silu(self.norm(h))), -1, 0)


plugin = Plugin(
    name="ddpmpp",
    summary="DDPM++ of Score SDE and EDM, 55.7M parameters on CIFAR-10 (arXiv 2011.13456)",
    provides={Slot.network: DDPMPP},
    config=DDPMPPOptions,
    example=((3, 32, 32), 0),
)
