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

from scmkit.conditioning import ConditioningEmbedding
from scmkit.fused_attention import attention_saveable
from scmkit.interfaces import (
    AbstractAttention,
    AbstractNetwork,
    AbstractNorm,
    Conditioning,
    NormFactory,
)
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins._layers import Linear, dropout, last_axis
from scmkit_plugins._normalize import rms_norm

Tokens = Float[Array, "tokens c"]

SAVED = {
    "light": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, attention_saveable
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""What each choice of `remat` keeps of a block for the backward pass: the outputs of its linear layers
and of fused attention, which cost most to recompute, or its input alone."""


@dataclass(frozen=True)
class DiTOptions:
    """Options of the transformer."""

    patch: Annotated[int, Ge(1)] = 2
    """Side of a patch in pixels; the cost grows with the inverse fourth power."""
    width: Annotated[int, Ge(1)] = 256
    """Features per token, a multiple of 4 and of `heads`."""
    depth: Annotated[int, Ge(1)] = 6
    """Number of blocks."""
    heads: Annotated[int, Ge(1)] = 4
    """Attention heads."""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """Hidden features of a block's perceptron, in units of `width`."""
    qk_norm: bool = False
    """Normalize queries and keys; steadies large models."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of zeroing a feature before the last layer of each branch in training."""
    remat: Literal["none", "light", "full"] = "light"
    """What the backward pass recomputes: nothing; all but linear layers and attention; all."""
    unroll: Annotated[int, Ge(1)] = 1
    """Blocks per step of the scan; more of them take longer to compile."""


class DiTBlock(eqx.Module):
    """`h + attention(norm(h))`, then `h + mlp(norm(h))`, both branches silent at initialisation."""

    norm1: AbstractNorm
    qkv: Linear
    gains: Float[Array, "2 head_dim"] | None
    out: Linear
    norm2: AbstractNorm
    up: Linear
    down: Linear
    heads: int = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(self, config: DiTOptions, *, norm: NormFactory, key: Key) -> None:
        width, hidden = config.width, round(config.mlp_ratio * config.width)
        k_norm1, k_qkv, k_out, k_norm2, k_up, k_down = jr.split(key, 6)
        self.norm1 = norm(width, width, key=k_norm1)
        self.qkv = Linear(width, 3 * width, key=k_qkv)
        self.gains = jnp.ones((2, width // config.heads)) if config.qk_norm else None
        self.out = Linear(width, width, scale=0, key=k_out)
        self.norm2 = norm(width, width, key=k_norm2)
        self.up = Linear(width, hidden, key=k_up)
        self.down = Linear(hidden, width, scale=0, key=k_down)
        self.heads = config.heads
        self.dropout = config.dropout

    def __call__(
        self, h: Tokens, emb: Float[Array, " dim"], attention: AbstractAttention, *, key: Key | None
    ) -> Tokens:
        n, c = h.shape
        k_attention, k_mlp = (None, None) if key is None else jr.split(key)
        qkv = self.qkv(self.norm1(h, emb)).reshape(n, 3, self.heads, c // self.heads)
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        if self.gains is not None:
            q = rms_norm(q) * last_axis(self.gains[0], q)
            k = rms_norm(k) * last_axis(self.gains[1], k)
        a = attention(q, k, v).reshape(n, c)
        h = h + self.out(dropout(a, self.dropout, k_attention))
        m = jax.nn.gelu(self.up(self.norm2(h, emb)))
        return h + self.down(dropout(m, self.dropout, k_mlp))


class DiT(AbstractNetwork):
    """Patches as tokens, through blocks whose parameters are stacked along a leading axis.

    One compiled block is scanned over the depth, which keeps compile time and memory flat. Time
    and class enter through the normalization alone (arXiv 2212.09748, Section 3). The output
    layer starts at zero.
    """

    conditioning: ConditioningEmbedding
    attention: AbstractAttention
    first: Linear
    blocks: DiTBlock
    norm: AbstractNorm
    last: Linear
    shape: tuple[int, ...] = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    remat: str = eqx.field(static=True)
    unroll: int = eqx.field(static=True)

    def __init__(self, config: DiTOptions, context: Context, *, key: Key) -> None:
        _check(config, context.data.shape)
        width, size = config.width, context.data.shape[0] * config.patch**2
        k_cond, k_first, k_blocks, k_norm, k_last = jr.split(key, 5)
        self.conditioning = ConditioningEmbedding(
            context.embedding, width, context.data.num_classes, key=k_cond
        )
        self.attention = context.attention
        self.first = Linear(size, width, key=k_first)
        self.blocks = eqx.filter_vmap(lambda k: DiTBlock(config, norm=context.norm, key=k))(
            jr.split(k_blocks, config.depth)
        )
        self.norm = context.norm(width, width, key=k_norm)
        self.last = Linear(width, size, scale=0, key=k_last)
        self.shape = context.data.shape
        self.patch = config.patch
        self.depth = config.depth
        self.remat = config.remat
        self.unroll = config.unroll

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning | None,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        emb = self.conditioning(c_noise, cond)
        h = self.first(self.patches(x))
        h = h + sincos_positions(self.shape, self.patch, h.shape[-1]).astype(h.dtype)
        h = self.trunk(h, emb, key=key)
        return self.image(self.last(self.norm(h, emb)))

    def trunk(self, h: Tokens, emb: Float[Array, " dim"], *, key: Key | None) -> Tokens:
        """All blocks in turn; each has its own dropout key, scanned along with its parameters."""
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def body(h: Tokens, layer: tuple[DiTBlock, Key | None]) -> tuple[Tokens, None]:
            block = eqx.combine(layer[0], static)
            return block(h, emb, self.attention, key=layer[1]), None

        if self.remat != "none":
            # Inside a scan XLA cannot merge the two passes anyway, so no barriers are needed.
            body = jax.checkpoint(body, prevent_cse=False, policy=SAVED[self.remat])
        keys = None if key is None else jr.split(key, self.depth)
        return jax.lax.scan(body, h, (arrays, keys), unroll=self.unroll)[0]

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


def sincos_positions(
    shape: tuple[int, ...], patch: int, width: int
) -> Float[np.ndarray, "tokens width"]:
    """Sines and cosines of each patch's row and column (MAE, arXiv 2111.06377; DiT)."""
    _, h, w = shape
    frequencies = 1e4 ** -(np.arange(width // 4) / (width // 4))
    rows, columns = np.meshgrid(np.arange(h // patch), np.arange(w // patch), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)


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
    if config.width % 4 or config.width % config.heads:
        raise ValueError(
            f"dit: width {config.width} is not a multiple of 4 and of the {config.heads} heads; "
            f"change dit.width or dit.heads"
        )


plugin = Plugin(
    name="dit",
    summary="Diffusion transformer, scanned and rematerialised (arXiv 2212.09748)",
    provides={Slot.network: DiT},
    config=DiTOptions,
)
