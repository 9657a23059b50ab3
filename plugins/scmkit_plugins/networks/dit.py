"""A diffusion transformer, its layers scanned."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float
from scmkit_attention import attention_saveable

from scmkit.interfaces import (
    AbstractAttention,
    AbstractHiddenNetwork,
    AbstractNorm,
    Conditioning,
)
from scmkit.models.conditioning import ConditioningEmbedding, both_ends
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.conditioning import check_decoupled, conditioning
from scmkit_plugins.layers.linear import Linear
from scmkit_plugins.layers.positions import Grid, rotary_angles, sincos_positions
from scmkit_plugins.networks._dit_block import DiTBlock, DiTOptions, Tokens, size

SAVED = {
    "light": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, attention_saveable
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What each choice of `remat` keeps of a block for the backward pass: the outputs of its linear layers
and of fused attention, which cost most to recompute, or its input alone."""


class DiT(AbstractHiddenNetwork):
    """Patches as tokens, through blocks whose parameters are stacked along a leading axis.

    One compiled block is scanned over the depth, which keeps compile time and memory flat. Time
    and class enter through the normalization and its gates alone (arXiv 2212.09748, Section 3).
    The output layer starts at zero.
    """

    conditioning: ConditioningEmbedding
    attention: AbstractAttention
    first: Linear
    blocks: DiTBlock
    norm: AbstractNorm
    last: Linear
    shape: tuple[int, ...] = eqx.field(static=True)
    options: DiTOptions = eqx.field(static=True)

    def __init__(self, config: DiTOptions, context: Context, *, key: Key) -> None:
        _check(config, context.data.shape)
        width, depth, _ = size(config)
        values = context.data.shape[0] * config.patch**2
        k_cond, k_first, k_blocks, k_norm, k_last = jr.split(key, 5)
        self.conditioning = conditioning(context, width, decoupled=config.decoupled > 0, key=k_cond)
        self.attention = context.attention
        self.first = Linear(values, width, key=k_first)
        self.blocks = eqx.filter_vmap(lambda k: DiTBlock(config, norm=context.norm, key=k))(
            jr.split(k_blocks, depth)
        )
        self.norm = context.norm(width, width, key=k_norm)
        self.last = Linear(width, values, scale=0, key=k_last)
        self.shape = context.data.shape
        self.options = config

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        start, end = self.ends(c_noise, cond)
        h = self.trunk(self.tokens(x), start, end, key=key)
        return self.image(self.last(self.norm(h, end)))

    def hidden(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Tokens:
        """The tokens after all blocks."""
        return self.trunk(self.tokens(x), *self.ends(c_noise, cond), key=key)

    def ends(
        self, c_noise: Float[Array, " k"], cond: Conditioning
    ) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
        """The embeddings that the first blocks and the last are told."""
        decoupled = self.options.decoupled > 0
        return both_ends(self.conditioning, c_noise, cond, decoupled=decoupled)

    def tokens(self, x: Float[Array, "*shape"]) -> Tokens:
        """The image's patches as the first block takes them."""
        h = self.first(self.patches(x))
        if self.options.positions == "sincos":
            h = h + sincos_positions(self.grid, h.shape[-1]).astype(h.dtype)
        return h

    def trunk(
        self,
        h: Tokens,
        start: Float[Array, " dim"],
        end: Float[Array, " dim"],
        *,
        key: Key | None,
    ) -> Tokens:
        """All blocks in turn, the last `decoupled` of them told `end`, the others `start`.

        Each has its own dropout key, scanned along with its parameters.
        """
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        o, head_dim = self.options, h.shape[-1] // self.blocks.heads
        angles = rotary_angles(self.grid, head_dim) if o.positions == "rotary" else None

        def body(
            h: Tokens, layer: tuple[DiTBlock, Key | None, Bool[Array, ""] | None]
        ) -> tuple[Tokens, None]:
            arrays, key, is_last = layer
            emb = start if is_last is None else jnp.where(is_last, end, start)
            block = eqx.combine(arrays, static)
            return block(h, emb, self.attention, angles, key=key), None

        if o.remat != "none":
            # Inside a scan XLA cannot merge the two passes anyway, so no barriers are needed.
            body = jax.checkpoint(body, prevent_cse=False, policy=SAVED[o.remat])
        depth = size(o)[1]
        keys = None if key is None else jr.split(key, depth)
        last = jnp.arange(depth) >= depth - o.decoupled if o.decoupled else None
        return jax.lax.scan(body, h, (arrays, keys, last), unroll=o.unroll)[0]

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        _, h, w = self.shape
        return h // self.options.patch, w // self.options.patch

    def patches(self, x: Float[Array, "c h w"]) -> Float[Array, "tokens size"]:
        """The image as patches of `patch * patch * c` values, row by row."""
        c, h, w = x.shape
        p = self.options.patch
        x = x.reshape(c, h // p, p, w // p, p)
        return x.transpose(1, 3, 2, 4, 0).reshape(-1, p * p * c)

    def image(self, tokens: Float[Array, "tokens size"]) -> Float[Array, "c h w"]:
        """The inverse of `patches`."""
        c, h, w = self.shape
        p = self.options.patch
        x = tokens.reshape(h // p, w // p, p, p, c)
        return x.transpose(4, 0, 2, 1, 3).reshape(c, h, w)


def _check(config: DiTOptions, shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"dit needs images of shape (channels, height, width), the data's samples are {shape}; "
            f"use the mlp network"
        )
    _, h, w = shape
    if h % config.patch or w % config.patch:
        raise ValueError(
            f"dit: an image of {h}x{w} does not divide into patches of {config.patch}; set "
            f"dit.patch to a divisor of both sides"
        )
    width, depth, heads = size(config)
    check_decoupled("dit", config.decoupled, depth)
    if width % 4 or width % heads:
        raise ValueError(
            f"dit: width {width} is not a multiple of 4 and of the {heads} heads; change dit.width "
            f"or dit.heads"
        )
    if config.positions == "rotary" and width // heads % 4:
        raise ValueError(
            f"dit: rotary positions need heads of a multiple of 4 channels, not {width // heads}; "
            f"change dit.width or dit.heads, or set dit.positions=sincos"
        )


plugin = Plugin(
    name="dit",
    summary="Diffusion transformer, scanned and rematerialised (arXiv 2212.09748)",
    provides={Slot.network: DiT},
    config=DiTOptions,
    example=((4, 32, 32), 1000),
)
