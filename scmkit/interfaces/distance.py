"""Distances between samples, for the losses that compare two of them."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.types import Scalar


class AbstractDistance(eqx.Module):
    """How far one sample is from another; differentiable in the first. No array of a distance is trained."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Scalar:
        """The distance, not negative, and 0 where the two are equal."""
