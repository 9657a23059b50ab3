"""A diffusion transformer, its layers scanned."""

from dataclasses import dataclass
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from annotated_types import Ge, Gt, Lt
from jaxtyping import Array, Float
from scmkit_attention import attention_saveable

from scmkit.interfaces import (
    AbstractAttention,
    AbstractGate,
    AbstractNetwork,
    AbstractNorm,
    Conditioning,
    GatedNormFactory,
    NormFactory,
)
from scmkit.models.conditioning import ConditioningEmbedding
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.linear import Linear, dropout, last_axis
from scmkit_plugins.layers.normalize import rms_norm
from scmkit_plugins.layers.positions import Grid, rotary_angles, rotate, sincos_positions

Tokens = Float[Array, "tokens c"]

SAVED = {
    "light": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, attention_saveable
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What each choice of `remat` keeps of a block for the backward pass: the outputs of its linear layers
and of fused attention, which cost most to recompute, or its input alone."""

PRESETS = {
    "none": (256, 6, 4),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
"""Width, depth and heads (arXiv 2212.09748, Table 1): 33M to 675M parameters from S to XL."""


@dataclass(frozen=True)
class DiTOptions:
    """Options of the transformer."""

    preset: Literal["none", "S", "B", "L", "XL"] = "none"
    """Size of the network as DiT names it: width, depth and heads, where they are not given."""
    patch: Annotated[int, Ge(1)] = 2
    """Side of a patch in pixels; the cost grows with the inverse fourth power."""
    width: Annotated[int, Ge(1)] | None = None
    """Features per token, a multiple of 4 and of `heads`. None: the preset's, or 256."""
    depth: Annotated[int, Ge(1)] | None = None
    """Number of blocks. None: the preset's, or 6."""
    heads: Annotated[int, Ge(1)] | None = None
    """Attention heads. None: the preset's, or 4."""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """Hidden features of a block's perceptron, in units of `width`."""
    positions: Literal["sincos", "rotary"] = "sincos"
    """How a token knows its place: sines and cosines added, or queries and keys rotated."""
    qk_norm: bool = False
    """Normalize queries and keys; steadies large models."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of zeroing a feature before the last layer of each branch in training."""
    remat: Literal["none", "light", "full"] = "light"
    """What the backward pass recomputes: nothing; all but linear layers and attention; all."""
    unroll: Annotated[int, Ge(1)] = 1
    """Blocks per step of the scan; more of them take longer to compile."""


def size(config: DiTOptions) -> tuple[int, int, int]:
    """Width, depth and heads: those given, else the preset's."""
    width, depth, heads = PRESETS[config.preset]
    return config.width or width, config.depth or depth, config.heads or heads


class DiTBlock(eqx.Module):
    """`h + gate * attention(norm(h))`, then `h + gate * mlp(norm(h))`, both branches silent at first.

    The gates come from a norm slot that has them and are zero at first (adaLN-Zero). Without them
    each branch's last layer is.
    """

    norm1: AbstractNorm
    qkv: Linear
    gains: Float[Array, "2 head_dim"] | None
    out: Linear
    gate1: AbstractGate | None
    norm2: AbstractNorm
    up: Linear
    down: Linear
    gate2: AbstractGate | None
    heads: int = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(self, config: DiTOptions, *, norm: NormFactory, key: Key) -> None:
        width, _, heads = size(config)
        # A class has its instances' methods too, but is a plain factory.
        gates = norm if isinstance(norm, GatedNormFactory) and not isinstance(norm, type) else None
        scale = 0 if gates is None else 1
        k_norm1, k_qkv, k_out, k_gate1, k_norm2, k_up, k_down, k_gate2 = jr.split(key, 8)
        self.norm1 = norm(width, width, key=k_norm1)
        self.qkv = Linear(width, 3 * width, key=k_qkv)
        self.gains = jnp.ones((2, width // heads)) if config.qk_norm else None
        self.out = Linear(width, width, scale=scale, key=k_out)
        self.gate1 = None if gates is None else gates.gate(width, width, key=k_gate1)
        self.norm2 = norm(width, width, key=k_norm2)
        hidden = round(config.mlp_ratio * width)
        self.up = Linear(width, hidden, key=k_up)
        self.down = Linear(hidden, width, scale=scale, key=k_down)
        self.gate2 = None if gates is None else gates.gate(width, width, key=k_gate2)
        self.heads = heads
        self.dropout = config.dropout

    def __call__(
        self,
        h: Tokens,
        emb: Float[Array, " dim"],
        attention: AbstractAttention,
        angles: Float[np.ndarray, "tokens pairs"] | None,
        *,
        key: Key | None,
    ) -> Tokens:
        n, c = h.shape
        k_attention, k_mlp = (None, None) if key is None else jr.split(key)
        qkv = self.qkv(self.norm1(h, emb)).reshape(n, 3, self.heads, c // self.heads)
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        if self.gains is not None:
            q = rms_norm(q) * last_axis(self.gains[0], q)
            k = rms_norm(k) * last_axis(self.gains[1], k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        a = attention(q, k, v).reshape(n, c)
        h = h + _gated(self.gate1, emb, self.out(dropout(a, self.dropout, k_attention)))
        m = jax.nn.gelu(self.up(self.norm2(h, emb)))
        return h + _gated(self.gate2, emb, self.down(dropout(m, self.dropout, k_mlp)))


def _gated(gate: AbstractGate | None, emb: Float[Array, " dim"], branch: Tokens) -> Tokens:
    return branch if gate is None else branch * last_axis(gate(emb), branch)


class DiT(AbstractNetwork):
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
    positions: str = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    remat: str = eqx.field(static=True)
    unroll: int = eqx.field(static=True)

    def __init__(self, config: DiTOptions, context: Context, *, key: Key) -> None:
        _check(config, context.data.shape)
        width, depth, _ = size(config)
        values = context.data.shape[0] * config.patch**2
        k_cond, k_first, k_blocks, k_norm, k_last = jr.split(key, 5)
        self.conditioning = ConditioningEmbedding(
            context.embedding,
            width,
            context.data.num_classes,
            noise_labels=context.noise_labels,
            conditions=context.conditions,
            key=k_cond,
        )
        self.attention = context.attention
        self.first = Linear(values, width, key=k_first)
        self.blocks = eqx.filter_vmap(lambda k: DiTBlock(config, norm=context.norm, key=k))(
            jr.split(k_blocks, depth)
        )
        self.norm = context.norm(width, width, key=k_norm)
        self.last = Linear(width, values, scale=0, key=k_last)
        self.positions = config.positions
        self.shape = context.data.shape
        self.patch = config.patch
        self.depth = depth
        self.remat = config.remat
        self.unroll = config.unroll

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        emb = self.conditioning(c_noise, cond)
        h = self.first(self.patches(x))
        if self.positions == "sincos":
            h = h + sincos_positions(self.grid, h.shape[-1]).astype(h.dtype)
        h = self.trunk(h, emb, key=key)
        return self.image(self.last(self.norm(h, emb)))

    def trunk(self, h: Tokens, emb: Float[Array, " dim"], *, key: Key | None) -> Tokens:
        """All blocks in turn; each has its own dropout key, scanned along with its parameters."""
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        head_dim = h.shape[-1] // self.blocks.heads
        angles = rotary_angles(self.grid, head_dim) if self.positions == "rotary" else None

        def body(h: Tokens, layer: tuple[DiTBlock, Key | None]) -> tuple[Tokens, None]:
            block = eqx.combine(layer[0], static)
            return block(h, emb, self.attention, angles, key=layer[1]), None

        if self.remat != "none":
            # Inside a scan XLA cannot merge the two passes anyway, so no barriers are needed.
            body = jax.checkpoint(body, prevent_cse=False, policy=SAVED[self.remat])
        keys = None if key is None else jr.split(key, self.depth)
        return jax.lax.scan(body, h, (arrays, keys), unroll=self.unroll)[0]

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        _, h, w = self.shape
        return h // self.patch, w // self.patch

    def patches(self, x: Float[Array, "c h w"]) -> Float[Array, "tokens size"]:
        """The image as patches of `patch * patch * c` values, row by row."""
        c, h, w = x.shape
        p = self.patch
        x = x.reshape(c, h // p, p, w // p, p)
        return x.transpose(1, 3, 2, 4, 0).reshape(-1, p * p * c)

    def image(self, tokens: Float[Array, "tokens size"]) -> Float[Array, "c h w"]:
        """The inverse of `patches`."""
        c, h, w = self.shape
        p = self.patch
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
    width, _, heads = size(config)
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
