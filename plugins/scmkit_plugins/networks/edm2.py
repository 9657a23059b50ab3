"""EDM2's magnitude-preserving U-Net, and what sCM changed in it."""

from collections.abc import Iterator

import equinox as eqx
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
from scmkit.types import Key, Scalar
from scmkit_plugins.layers.linear import layer_keys
from scmkit_plugins.layers.magnitude import (
    MPLayer,
    mp_cat,
    mp_silu,
    mp_sum,
    normalised,
)
from scmkit_plugins.layers.resample import check_halvings
from scmkit_plugins.layers.unet_levels import Place, Structure
from scmkit_plugins.networks._edm2_block import CHANNELS, Block, EDM2Options, Image


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
        ends = context.noise_labels == 2 and not config.decoupled
        self.end = SecondLabel(context.embedding.dim, dim) if ends else None
        self.balance = config.label_balance

    def __call__(self, c_noise: Float[Array, " k"], cond: Conditioning) -> Float[Array, " dim"]:
        """The embedding; without a label the class takes part as zeros, as EDM2 was trained."""
        emb = self.time(self.embedding(c_noise[:1]))
        emb = with_end(emb, self.end, self.embedding, c_noise)
        row = class_row(cond, 0 if self.label is None else self.label.weight.shape[0])
        if self.label is not None:
            # A one-hot vector times the square root of the number of classes picks a row.
            rows = normalised(self.label.weight)
            rows = jnp.concatenate([rows, jnp.zeros_like(rows[:1])])
            emb = mp_sum(emb, rows[row], self.balance)
        return mp_silu(emb + self.scalars(cond))


class EDM2(AbstractHiddenNetwork):
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
    options: EDM2Options = eqx.field(static=True)

    def __init__(self, config: EDM2Options, context: Context, *, key: Key) -> None:
        depth = len(config.multipliers)
        check_halvings("edm2", context.data.shape, depth)
        channels, height, _ = context.data.shape
        base = config.channels or CHANNELS[config.preset]
        levels = Structure(
            sides=tuple(height >> level for level in range(depth)),
            widths=tuple(base * m for m in config.multipliers),
            blocks=config.blocks,
            attended=config.attention_resolutions,
        )
        dim, width = max(levels.widths), levels.widths[0]
        keys = iter(jr.split(key, 4 + depth * (2 * config.blocks + 3)))

        def blocks(places: list[Place], decoder: bool) -> tuple[Block, ...]:
            norm = context.norm
            return tuple(
                Block(place, dim, config, decoder=decoder, norm=norm, key=next(keys))
                for place in places
            )

        self.conditioning = EDM2Conditioning(dim, config, context, key=next(keys))
        self.attention = context.attention
        self.first = MPLayer(channels + 1, width, 3, key=next(keys))
        self.encoder = blocks(levels.encoder(width), decoder=False)
        self.decoder = blocks(levels.decoder(width, last_attends=False), decoder=True)
        self.last = MPLayer(width, channels, 3, key=next(keys))
        self.gain = jnp.zeros(())
        self.options = config

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        decoupled = self.options.decoupled
        start, end = both_ends(self.conditioning, c_noise, cond, decoupled=decoupled)
        keys = layer_keys(key, len(self.encoder) + len(self.decoder))
        skips = self.encoded(x, start, keys)
        h = skips[-1]
        for block in self.decoder:
            if block.conv0.weight.shape[-2] > h.shape[-1]:
                h = mp_cat(h, skips.pop(), self.options.concat_balance)
            h = self._run(block, h, end, next(keys))
        return jnp.moveaxis(self.last(h, self.gain), -1, 0)

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
        decoupled = self.options.decoupled
        start, _ = both_ends(self.conditioning, c_noise, cond, decoupled=decoupled)
        return self.encoded(x, start, keys)[-1]

    def encoded(
        self, x: Float[Array, "*shape"], emb: Float[Array, " dim"], keys: Iterator[Key | None]
    ) -> list[Float[Array, "..."]]:
        """Every activation of the encoder, which the decoder is told."""
        h = jnp.moveaxis(x, 0, -1)
        # A constant channel stands in for the biases, of which there are none.
        skips = [self.first(jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1))]
        for block in self.encoder:
            skips.append(self._run(block, skips[-1], emb, next(keys)))
        return skips

    def _run(
        self, block: Block, h: Image, emb: Float[Array, " dim"], key: Key | None
    ) -> Float[Array, "h2 w2 out"]:
        plain = self.options.remat == "none"
        run = Block.__call__ if plain else eqx.filter_checkpoint(Block.__call__)
        return run(block, h, emb, self.attention, key)


plugin = Plugin(
    name="edm2",
    summary="EDM2's magnitude-preserving U-Net, xxs to xxl (arXiv 2312.02696)",
    provides={Slot.network: EDM2},
    config=EDM2Options,
    example=((3, 64, 64), 1000),
    settings={"adaptive-double-norm.weights": "normalised", "adaptive-double-norm.shift": False},
)
