"""Frozen features of samples, through which losses look at them."""

import abc

import equinox as eqx
from jaxtyping import Array, Float


class AbstractEncoder(eqx.Module):
    """Features of a sample, differentiable in the sample; no array of an encoder is trained."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "*shape"]) -> tuple[Float[Array, "..."], ...]:
        """The features of one layer after another, in float32, of a sample as the model sees it.

        Channels are last; what comes before them are positions, of which a layer may have none.
        """
