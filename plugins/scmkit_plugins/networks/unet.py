"""A convolutional U-Net for small images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Lt
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractAttention,
    AbstractHiddenNetwork,
    AbstractNorm,
    Conditioning,
    NormFactory,
)
from scmkit.models.conditioning import ConditioningEmbedding, both_ends
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.conditioning import conditioning
from scmkit_plugins.layers.convolution import Conv
from scmkit_plugins.layers.linear import Linear, dropout, layer_keys
from scmkit_plugins.layers.resample import check_halvings, double, halve
from scmkit_plugins.layers.self_attention import over_positions

Image = Float[Array, "h w c"]


@dataclass(frozen=True)
class UNetOptions:
    """Options of the U-Net."""

    channels: Annotated[int, Ge(1)] = 64
    """Channels at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Channels of each level, in units of `channels`; each level halves the resolution."""
    blocks: Annotated[int, Ge(1)] = 2
    """Residual blocks per level on the way down; one more on the way up."""
    attention_resolutions: tuple[int, ...] = (8,)
    """Image heights at which every block is followed by attention; the middle always is."""
    head_dim: Annotated[int, Ge(1)] = 32
    """Channels per attention head."""
    embedding_dim: Annotated[int, Ge(1)] = 256
    """Features of the embedding of time and class."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of zeroing a feature between a block's convolutions in training."""
    decoupled: bool = False
    """In a flow map, whether the way up is told where the jump ends, and all before it where it starts
    (Decoupled MeanFlow). Otherwise all is told both."""


class AttentionBlock(eqx.Module):
    """`x + W attention(norm(x))` over the positions, silent at initialisation."""

    norm: AbstractNorm
    qkv: Linear
    out: Linear
    head_dim: int = eqx.field(static=True)

    def __init__(
        self, channels: int, dim: int, head_dim: int, *, norm: NormFactory, key: Key
    ) -> None:
        if channels % head_dim:
            raise ValueError(
                f"unet: {channels} channels do not divide into attention heads of {head_dim}; "
                f"set unet.head_dim to a divisor, or change unet.channels"
            )
        k_norm, k_qkv, k_out = jr.split(key, 3)
        self.norm = norm(channels, dim, key=k_norm)
        self.qkv = Linear(channels, 3 * channels, key=k_qkv)
        self.out = Linear(channels, channels, scale=0, key=k_out)
        self.head_dim = head_dim

    def __call__(self, x: Image, emb: Float[Array, " dim"], attention: AbstractAttention) -> Image:
        qkv, heads = self.qkv(self.norm(x, emb)), x.shape[-1] // self.head_dim
        return x + self.out(over_positions(attention, qkv, heads))


class Block(eqx.Module):
    """`skip(x) + conv(silu(norm(conv(silu(norm(x))))))`, then attention where there is any.

    The block of ADM (arXiv 2105.05233), with the embedding in both normalizations.
    """

    norm1: AbstractNorm
    conv1: Conv
    norm2: AbstractNorm
    conv2: Conv
    skip: Linear | None
    attention: AttentionBlock | None
    dropout: float = eqx.field(static=True)

    def __init__(
        self, in_: int, out: int, attend: bool, *, config: UNetOptions, norm: NormFactory, key: Key
    ) -> None:
        dim = config.embedding_dim
        k_norm1, k_conv1, k_norm2, k_conv2, k_skip, k_attention = jr.split(key, 6)
        self.norm1 = norm(in_, dim, key=k_norm1)
        self.conv1 = Conv(in_, out, key=k_conv1)
        self.norm2 = norm(out, dim, key=k_norm2)
        self.conv2 = Conv(out, out, scale=0, key=k_conv2)
        self.skip = None if in_ == out else Linear(in_, out, key=k_skip)
        self.attention = (
            AttentionBlock(out, dim, config.head_dim, norm=norm, key=k_attention)
            if attend
            else None
        )
        self.dropout = config.dropout

    def __call__(
        self,
        x: Image,
        emb: Float[Array, " dim"],
        attention: AbstractAttention,
        *,
        key: Key | None,
    ) -> Float[Array, "h w out"]:
        y = self.conv1(jax.nn.silu(self.norm1(x, emb)))
        y = dropout(jax.nn.silu(self.norm2(y, emb)), self.dropout, key)
        y = self.conv2(y) + (x if self.skip is None else self.skip(x))
        return y if self.attention is None else self.attention(y, emb, attention)


class UNet(AbstractHiddenNetwork):
    """Levels of residual blocks down to `1 / 2**(levels - 1)` of the size and up again.

    Every activation on the way down is concatenated to its counterpart on the way up
    (arXiv 2006.11239, Appendix B). The output layer starts at zero.
    """

    conditioning: ConditioningEmbedding
    attention: AbstractAttention
    first: Conv
    down: tuple[tuple[Block, ...], ...]
    middle: tuple[Block, ...]
    up: tuple[tuple[Block, ...], ...]
    norm: AbstractNorm
    last: Conv
    decoupled: bool = eqx.field(static=True)

    def __init__(self, config: UNetOptions, context: Context, *, key: Key) -> None:
        shape, levels = context.data.shape, len(config.multipliers)
        check_halvings("unet", shape, levels)
        keys = iter(jr.split(key, 6 + levels * (2 * config.blocks + 1)))
        widths = [config.channels * m for m in config.multipliers]

        def block(in_: int, out: int, attend: bool) -> Block:
            return Block(in_, out, attend, config=config, norm=context.norm, key=next(keys))

        self.conditioning = conditioning(
            context, config.embedding_dim, decoupled=config.decoupled, key=next(keys)
        )
        self.attention = context.attention
        self.first = Conv(shape[0], config.channels, key=next(keys))

        width, skips, down, up = config.channels, [config.channels], [], []
        attend = [shape[1] >> i in config.attention_resolutions for i in range(levels)]
        for level, out in enumerate(widths):
            if level:
                skips.append(width)
            blocks = []
            for _ in range(config.blocks):
                blocks.append(block(width, out, attend[level]))
                skips.append(out)
                width = out
            down.append(tuple(blocks))
        self.middle = (block(width, width, True), block(width, width, False))
        for level, out in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(config.blocks + 1):
                blocks.append(block(width + skips.pop(), out, attend[level]))
                width = out
            up.append(tuple(blocks))

        self.down, self.up = tuple(down), tuple(up)
        self.norm = context.norm(width, config.embedding_dim, key=next(keys))
        self.last = Conv(width, shape[0], scale=0, key=next(keys))
        self.decoupled = config.decoupled

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        start, end = both_ends(self.conditioning, c_noise, cond, decoupled=self.decoupled)
        keys = layer_keys(key, len(self.middle) + sum(map(len, self.down + self.up)))
        h, skips = self.descended(x, start, keys)
        for level, blocks in enumerate(self.up):
            if level:
                h = double(h)
            for block in blocks:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, end, self.attention, key=next(keys))
        return jnp.moveaxis(self.last(jax.nn.silu(self.norm(h, end))), -1, 0)

    def hidden(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Image:
        """The smallest images, after the middle."""
        keys = layer_keys(key, len(self.middle) + sum(map(len, self.down + self.up)))
        start, _ = both_ends(self.conditioning, c_noise, cond, decoupled=self.decoupled)
        return self.descended(x, start, keys)[0]

    def descended(
        self, x: Float[Array, "*shape"], emb: Float[Array, " dim"], keys: Iterator[Key | None]
    ) -> tuple[Float[Array, "..."], list[Float[Array, "..."]]]:
        """What is handed to the way up: the smallest images, and every activation of the way down."""
        h = self.first(jnp.moveaxis(x, 0, -1))
        skips = [h]
        for level, blocks in enumerate(self.down):
            if level:
                h = halve(h)
                skips.append(h)
            for block in blocks:
                h = block(h, emb, self.attention, key=next(keys))
                skips.append(h)
        for block in self.middle:
            h = block(h, emb, self.attention, key=next(keys))
        return h, skips


plugin = Plugin(
    name="unet",
    summary="Convolutional U-Net for images of 8x8 to 64x64",
    provides={Slot.network: UNet},
    config=UNetOptions,
)
