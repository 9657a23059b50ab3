"""Attention."""

import abc

import equinox as eqx
from jaxtyping import Array, Float


class AbstractAttention(eqx.Module):
    r"""Multi-head attention, $\mathrm{softmax}(q k^T / \sqrt{d})\, v$ for each head.

    It must support `jvp`, `vjp` and `vmap`: the sCM tangent passes through it in forward mode.
    """

    @abc.abstractmethod
    def __call__(
        self,
        q: Float[Array, "queries heads head_dim"],
        k: Float[Array, "tokens heads head_dim"],
        v: Float[Array, "tokens heads head_dim"],
    ) -> Float[Array, "queries heads head_dim"]:
        """The attention of one sample."""
