"""EDM2's magnitude-preserving U-Net, and what sCM changed in it."""

from dataclasses import dataclass
from typing import Annotated, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le, Lt
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
from scmkit.types import Key, Scalar
from scmkit_plugins.layers.linear import dropout, layer_keys
from scmkit_plugins.layers.magnitude import (
    MPLayer,
    mp_cat,
    mp_pixel_norm,
    mp_silu,
    mp_sum,
    normalised,
)
from scmkit_plugins.layers.resample import check_halvings, double, halve

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
        h, w, c = x.shape
        qkv = mp_pixel_norm(self.qkv(x).reshape(h * w, 3, c // self.head_dim, self.head_dim))
        return self.out(attention(qkv[:, 0], qkv[:, 1], qkv[:, 2]).reshape(h, w, c))


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
    resample: str = eqx.field(static=True)
    dropout: float = eqx.field(static=True)
    residual_balance: float = eqx.field(static=True)
    attention_balance: float = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(
        self,
        in_: int,
        out: int,
        dim: int,
        config: EDM2Options,
        *,
        decoder: bool,
        height: int,
        resample: str = "keep",
        attend: bool = False,
        norm: NormFactory,
        key: Key,
    ) -> None:
        k_conv0, k_modulation, k_conv1, k_skip, k_attention = jr.split(key, 5)
        self.conv0 = MPLayer(in_ if decoder else out, out, 3, key=k_conv0)
        self.modulation = norm(out, dim, key=k_modulation)
        self.conv1 = MPLayer(out, out, 3, key=k_conv1)
        self.skip = None if in_ == out else MPLayer(in_, out, 1, key=k_skip)
        self.attention = Attention(out, config.head_dim, key=k_attention) if attend else None
        self.decoder = decoder
        self.resample = resample
        self.dropout = config.dropout if height <= config.dropout_resolution else 0.0
        self.residual_balance = config.residual_balance
        self.attention_balance = config.attention_balance
        self.clip = config.clip

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
        x = mp_sum(x, y, self.residual_balance)
        if self.attention is not None:
            x = mp_sum(x, self.attention(x, attention), self.attention_balance)
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)


class EDM2Conditioning(eqx.Module):
    """Time and class as one embedding of unit RMS, always float32."""

    embedding: AbstractTimeEmbedding
    time: MPLayer
    label: MPLayer | None
    scalars: ScalarConditions
    end: SecondLabel | None
    balance: float = eqx.field(static=True)

    def __init__(self, dim: int, config: EDM2Options, context: Context, *, key: Key) -> None:
        k_time, k_label = jr.split(key)
        classes = context.data.num_classes
        self.embedding = context.embedding
        self.time = MPLayer(context.embedding.dim, dim, key=k_time)
        self.label = MPLayer(classes, dim, key=k_label) if classes else None
        self.scalars = ScalarConditions(context.conditions, dim)
        self.end = SecondLabel(context.embedding.dim, dim) if context.noise_labels == 2 else None
        self.balance = config.label_balance

    def __call__(self, c_noise: Float[Array, " k"], cond: Conditioning) -> Float[Array, " dim"]:
        """The embedding; without a label the class takes part as zeros, as EDM2 was trained."""
        emb = self.time(self.embedding(c_noise[:1]))
        if self.end is not None:
            emb = emb + self.end(self.embedding(c_noise[1:]))
        label = cond.label
        if self.label is not None:
            # A one-hot vector times the square root of the number of classes picks a row.
            rows = normalised(self.label.weight)
            rows = jnp.concatenate([rows, jnp.zeros_like(rows[:1])])
            none = jnp.asarray(rows.shape[0] - 1)
            emb = mp_sum(emb, rows[none if label is None else label], self.balance)
        elif label is not None:
            raise UsageError("this network was built without classes but was given a label")
        return mp_silu(emb + self.scalars(cond))


class EDM2(AbstractNetwork):
    """A U-Net in which every layer preserves magnitudes (EDM2 config G, arXiv 2312.02696).

    The published network takes `fourier` features of scale 1 and the norm `mp-gain`; with `positional`
    and `adaptive-double-norm` it is sCM's (arXiv 2410.11081, Section 4.1 and Appendix G).
    """

    conditioning: EDM2Conditioning
    attention: AbstractAttention
    first: MPLayer
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]
    last: MPLayer
    gain: Scalar
    concat_balance: float = eqx.field(static=True)
    remat: str = eqx.field(static=True)

    def __init__(self, config: EDM2Options, context: Context, *, key: Key) -> None:
        levels = len(config.multipliers)
        check_halvings("edm2", context.data.shape, levels)
        channels, height, _ = context.data.shape
        base = config.channels or CHANNELS[config.preset]
        widths = [base * m for m in config.multipliers]
        dim = max(widths)
        keys = iter(jr.split(key, 4 + levels * (2 * config.blocks + 3)))

        def block(in_: int, out: int, level: int, **kwargs: object) -> Block:
            kwargs = {"attend": False, "resample": "keep"} | kwargs
            return Block(
                in_,
                out,
                dim,
                config,
                height=height >> level,
                norm=context.norm,
                key=next(keys),
                **kwargs,  # pyright: ignore[reportArgumentType]
            )

        attends = [height >> level in config.attention_resolutions for level in range(levels)]
        self.conditioning = EDM2Conditioning(dim, config, context, key=next(keys))
        self.attention = context.attention
        self.first = MPLayer(channels + 1, widths[0], 3, key=next(keys))
        encoder, width = [], widths[0]
        skips = [width]
        for level, out in enumerate(widths):
            if level:
                encoder.append(block(width, width, level, decoder=False, resample="down"))
                skips.append(width)
            for _ in range(config.blocks):
                encoder.append(block(width, out, level, decoder=False, attend=attends[level]))
                skips.append(out)
                width = out
        bottom = levels - 1
        decoder = [
            block(width, width, bottom, decoder=True, attend=True),
            block(width, width, bottom, decoder=True),
        ]
        for level, out in reversed(list(enumerate(widths))):
            if level < bottom:
                decoder.append(block(width, width, level, decoder=True, resample="up"))
            for _ in range(config.blocks + 1):
                in_ = width + skips.pop()
                decoder.append(block(in_, out, level, decoder=True, attend=attends[level]))
                width = out
        self.encoder, self.decoder = tuple(encoder), tuple(decoder)
        self.last = MPLayer(width, channels, 3, key=next(keys))
        self.gain = jnp.zeros(())
        self.concat_balance = config.concat_balance
        self.remat = config.remat

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
        h = jnp.moveaxis(x, 0, -1)
        # A constant channel stands in for the biases, of which there are none.
        h = self.first(jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1))
        skips = [h]
        for block in self.encoder:
            h = self._run(block, h, emb, next(keys))
            skips.append(h)
        for block in self.decoder:
            if block.conv0.weight.shape[-2] > h.shape[-1]:
                h = mp_cat(h, skips.pop(), self.concat_balance)
            h = self._run(block, h, emb, next(keys))
        return jnp.moveaxis(self.last(h, self.gain), -1, 0)

    def _run(
        self, block: Block, h: Image, emb: Float[Array, " dim"], key: Key | None
    ) -> Float[Array, "h2 w2 out"]:
        run = Block.__call__ if self.remat == "none" else eqx.filter_checkpoint(Block.__call__)
        return run(block, h, emb, self.attention, key)


plugin = Plugin(
    name="edm2",
    summary="EDM2's magnitude-preserving U-Net, xxs to xxl (arXiv 2312.02696)",
    provides={Slot.network: EDM2},
    config=EDM2Options,
    example=((3, 64, 64), 1000),
    settings={"adaptive-double-norm.weights": "normalised", "adaptive-double-norm.shift": False},
)
