"""A residual multilayer perceptron for vectors and for small things flattened."""

import math
from dataclasses import dataclass
from typing import Annotated

import equinox as eqx
import jax
import jax.random as jr
from annotated_types import Ge, Lt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractHiddenNetwork, AbstractNorm, Conditioning, NormFactory
from scmkit.models.conditioning import ConditioningEmbedding, both_ends
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.conditioning import check_decoupled, conditioning
from scmkit_plugins.layers.linear import Linear, dropout, layer_keys
from scmkit_plugins.layers.normalize import rms_norm


@dataclass(frozen=True)
class MLPOptions:
    """Options of the residual perceptron."""

    width: Annotated[int, Ge(1)] = 512
    """Features of the residual stream and of each block's hidden layer."""
    depth: Annotated[int, Ge(1)] = 4
    """Number of residual blocks."""
    embedding_dim: Annotated[int, Ge(1)] = 256
    """Features of the embedding of time and class."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability of zeroing a hidden feature in training."""
    decoupled: Annotated[int, Ge(0)] = 0
    """In a flow map, the number of last blocks that are told where the jump ends, where all others are told
    where it starts (Decoupled MeanFlow, whose authors take a third of them). 0: all are told both."""


class MLPBlock(eqx.Module):
    """`h + W2 silu(norm(W1 h, emb))`, silent at initialisation.

    Normalized after the first layer rather than before it: a teacher trained so copied its training
    data less, and its student followed it more closely (handwritten digits, equal steps).
    """

    norm: AbstractNorm
    first: Linear
    second: Linear
    dropout: float = eqx.field(static=True)

    def __init__(
        self, width: int, dim: int, dropout: float, *, norm: NormFactory, key: Key
    ) -> None:
        k_norm, k_first, k_second = jr.split(key, 3)
        self.norm = norm(width, dim, key=k_norm)
        self.first = Linear(width, width, key=k_first)
        self.second = Linear(width, width, scale=0, key=k_second)
        self.dropout = dropout

    def __call__(
        self, h: Float[Array, " width"], emb: Float[Array, " dim"], *, key: Key | None
    ) -> Float[Array, " width"]:
        hidden = jax.nn.silu(self.norm(self.first(h), emb))
        return h + self.second(dropout(hidden, self.dropout, key))


class MLP(AbstractHiddenNetwork):
    """A linear layer, residual blocks and a linear layer, on the sample flattened.

    The output layer starts at zero: the first model is the skip connection alone.
    """

    conditioning: ConditioningEmbedding
    first: Linear
    blocks: tuple[MLPBlock, ...]
    last: Linear
    decoupled: int = eqx.field(static=True)

    def __init__(self, config: MLPOptions, context: Context, *, key: Key) -> None:
        check_decoupled("mlp", config.decoupled, config.depth)
        size = math.prod(context.data.shape)
        width, dim = config.width, config.embedding_dim
        k_cond, k_first, k_last, *k_blocks = jr.split(key, 3 + config.depth)
        self.conditioning = conditioning(context, dim, decoupled=config.decoupled > 0, key=k_cond)
        self.first = Linear(size, width, key=k_first)
        self.blocks = tuple(
            MLPBlock(width, dim, config.dropout, norm=context.norm, key=k) for k in k_blocks
        )
        self.last = Linear(width, size, scale=0, key=k_last)
        self.decoupled = config.decoupled

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        return self.last(self.hidden(x, c_noise, cond, key=key)).reshape(x.shape)

    def hidden(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, " width"]:
        """The last layer's input."""
        start, end = both_ends(self.conditioning, c_noise, cond, decoupled=self.decoupled > 0)
        h, depth = self.first(x.ravel()), len(self.blocks)
        told = [start] * (depth - self.decoupled) + [end] * self.decoupled
        for block, emb, k in zip(self.blocks, told, layer_keys(key, depth), strict=True):
            h = block(h, emb, key=k)
        return rms_norm(h)


plugin = Plugin(
    name="mlp",
    summary="Residual multilayer perceptron, for vectors and small images",
    provides={Slot.network: MLP},
    config=MLPOptions,
)
