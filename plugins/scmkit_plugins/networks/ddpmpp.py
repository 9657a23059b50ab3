"""DDPM++, the U-Net of Score SDE as EDM trained it."""

import math
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractAttention,
    AbstractHiddenNetwork,
    AbstractTimeEmbedding,
    Conditioning,
)
from scmkit.models.conditioning import (
    ScalarConditions,
    SecondLabel,
    both_ends,
    class_row,
    with_end,
)
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.convolution import Conv, xavier
from scmkit_plugins.layers.linear import Linear, layer_keys
from scmkit_plugins.layers.resample import check_halvings
from scmkit_plugins.layers.unet_levels import Place, Structure
from scmkit_plugins.modulation.additive_group_norm import GroupNorm
from scmkit_plugins.networks._ddpmpp_block import SILENT, Block, DDPMPPOptions, Image


class Mapping(eqx.Module):
    """Two linear layers with SiLU on the sum of the time features and the class's, always float32."""

    embedding: AbstractTimeEmbedding
    label: Linear | None
    layer0: Linear
    layer1: Linear
    scalars: ScalarConditions
    end: SecondLabel | None

    def __init__(self, dim: int, context: Context, *, decoupled: bool = False, key: Key) -> None:
        k_label, k_layer0, k_layer1 = jr.split(key, 3)
        features, classes = context.embedding.dim, context.data.num_classes
        self.embedding = context.embedding
        self.label = xavier(Linear, classes, features, key=k_label) if classes else None
        self.layer0 = xavier(Linear, features, dim, key=k_layer0)
        self.layer1 = xavier(Linear, dim, dim, key=k_layer1)
        self.scalars = ScalarConditions(context.conditions, features)
        ends = context.noise_labels == 2 and not decoupled
        self.end = SecondLabel(features, features) if ends else None

    def __call__(self, c_noise: Float[Array, " k"], cond: Conditioning) -> Float[Array, " dim"]:
        """The embedding; no label is a class vector of zeros, which leaves the bias."""
        features = with_end(self.embedding(c_noise[:1]), self.end, self.embedding, c_noise)
        classes = 0 if self.label is None else self.label.weight.shape[0]
        row = class_row(cond, classes)
        if self.label is not None:
            # A one-hot vector times the square root of the number of classes picks a row.
            rows = jnp.pad(math.sqrt(classes) * self.label.weight, ((0, 1), (0, 0)))
            features = features + rows[row] + self.label.bias
        emb = self.layer0(features + self.scalars(cond))
        return jax.nn.silu(self.layer1(jax.nn.silu(emb)))


class DDPMPP(AbstractHiddenNetwork):
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
    decoupled: bool = eqx.field(static=True)

    def __init__(self, config: DDPMPPOptions, context: Context, *, key: Key) -> None:
        depth, channels = len(config.multipliers), config.channels
        check_halvings("ddpmpp", context.data.shape, depth)
        images, height, _ = context.data.shape
        levels = Structure(
            sides=tuple(height >> level for level in range(depth)),
            widths=tuple(channels * m for m in config.multipliers),
            blocks=config.blocks,
            attended=config.attention_resolutions,
        )
        keys = iter(jr.split(key, 4 + depth * (2 * config.blocks + 3)))

        def blocks(places: list[Place]) -> tuple[Block, ...]:
            return tuple(
                Block(place, config, norm=context.norm, key=next(keys)) for place in places
            )

        dim = config.embedding_multiplier * channels
        self.conditioning = Mapping(dim, context, decoupled=config.decoupled, key=next(keys))
        self.attention = context.attention
        self.first = xavier(Conv, images, channels, key=next(keys))
        self.encoder = blocks(levels.encoder(channels))
        self.decoder = blocks(levels.decoder(channels, last_attends=True))
        width = levels.widths[0]
        self.norm = GroupNorm(width)
        self.last = xavier(Conv, width, images, gain=SILENT, key=next(keys))
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
        keys = layer_keys(key, len(self.encoder) + len(self.decoder))
        skips = self.encoded(x, start, keys)
        h = skips[-1]
        for block in self.decoder:
            if block.conv0.weight.shape[-2] > h.shape[-1]:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = block(h, end, self.attention, key=next(keys))
        return jnp.moveaxis(self.last(jax.nn.silu(self.norm(h))), -1, 0)

    def hidden(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Image:
        """The smallest images, after the encoder."""
        keys = layer_keys(key, len(self.encoder) + len(self.decoder))
        start, _ = both_ends(self.conditioning, c_noise, cond, decoupled=self.decoupled)
        return self.encoded(x, start, keys)[-1]

    def encoded(
        self, x: Float[Array, "*shape"], emb: Float[Array, " dim"], keys: Iterator[Key | None]
    ) -> list[Float[Array, "..."]]:
        """Every activation of the encoder, which the decoder is told."""
        skips = [self.first(jnp.moveaxis(x, 0, -1))]
        for block in self.encoder:
            skips.append(block(skips[-1], emb, self.attention, key=next(keys)))
        return skips


plugin = Plugin(
    name="ddpmpp",
    summary="DDPM++ of Score SDE and EDM, 55.7M parameters on CIFAR-10 (arXiv 2011.13456)",
    provides={Slot.network: DDPMPP},
    config=DDPMPPOptions,
    example=((3, 32, 32), 0),
)
