"""A block of the diffusion transformer, and the options that say what it does."""

from dataclasses import dataclass
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from annotated_types import Ge, Gt, Lt
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractAttention,
    AbstractGate,
    AbstractNorm,
    GatedNormFactory,
    NormFactory,
)
from scmkit.types import Key
from scmkit_plugins.layers.linear import Linear, dropout, last_axis
from scmkit_plugins.layers.normalize import rms_norm
from scmkit_plugins.layers.positions import rotate

Tokens = Float[Array, "tokens c"]

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
    decoupled: Annotated[int, Ge(0)] = 0
    """In a flow map, the number of last blocks that are told where the jump ends, where all others are told
    where it starts (Decoupled MeanFlow, whose authors take a third of them). 0: all are told both."""
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
