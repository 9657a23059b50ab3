"""Normalization layers that carry the conditioning."""

import abc
from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.types import Key


class AbstractNorm(eqx.Module):
    """A normalization modulated by the embedding of time and condition.

    Channels come last: on a CPU convolutions in this layout are 1.2 to 1.4 times faster, and a
    transformer's tokens have it anyway.
    """

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "*space c"], emb: Float[Array, " dim"]
    ) -> Float[Array, "*space c"]:
        """`x` normalized over the module's axes and modulated by `emb`."""


@runtime_checkable
class NormFactory(Protocol):
    """A factory of layers, which fills the norm slot: networks need the layer at many widths."""

    def __call__(self, channels: int, dim: int, *, key: Key) -> AbstractNorm:
        """A layer for `channels` channels and an embedding of `dim` features."""
        ...


class AbstractGate(eqx.Module):
    """A factor per channel on a residual branch, from the embedding of time and condition."""

    @abc.abstractmethod
    def __call__(self, emb: Float[Array, " dim"]) -> Float[Array, " c"]:
        """The factors, in the dtype of the embedding."""


@runtime_checkable
class GatedNormFactory(NormFactory, Protocol):
    """A factory whose conditioning also gates the branches that its layers open (adaLN-Zero).

    A network that is given one multiplies each branch by its gate. The gate decides how the branch starts
    (silent, for DiT), so that the network starts the branch's last layer with normal weights.
    """

    def gate(self, channels: int, dim: int, *, key: Key) -> AbstractGate:
        """A gate for a branch of `channels` channels and an embedding of `dim` features."""
        ...
