"""Self-attention over the positions of an image."""

from collections.abc import Callable

from jaxtyping import Array, Float

from scmkit.interfaces import AbstractAttention


def over_positions(
    attention: AbstractAttention,
    qkv: Float[Array, "h w qkv"],
    heads: int,
    normalize: Callable[[Array], Array] = lambda qkv: qkv,
) -> Float[Array, "h w c"]:
    """What each position gathers from all; `qkv` are all queries, then all keys, then all values.

    `normalize` acts on their heads, the last axis.
    """
    h, w, c = qkv.shape
    split = normalize(qkv.reshape(h * w, 3, heads, c // (3 * heads)))
    return attention(split[:, 0], split[:, 1], split[:, 2]).reshape(h, w, c // 3)
