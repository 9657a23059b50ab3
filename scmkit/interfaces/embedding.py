"""Time embeddings: noise labels as feature vectors."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.types import AbstractVar


class AbstractTimeEmbedding(eqx.Module):
    """Features of the noise labels; always float32 (arXiv 2410.11081, Section 4.1).

    A label vector has one entry. The network of a flow map, which is told two times, embeds each on its own.
    """

    dim: AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, c_noise: Float[Array, " k"]) -> Float[Array, " dim"]:
        """The features of the noise labels `c_noise`, of about unit variance."""
