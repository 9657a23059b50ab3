"""Tangent estimators: which way `x_t` moves along the PF-ODE."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.interfaces.sample import Point
from scmkit.types import Scalar


class AbstractTangentEstimator(eqx.Module):
    """An estimate of `dx_t/dt`, unbiased given `x_t` (arXiv 2410.11081, Section 2.2).

    From the data (sCT) or from a teacher (sCD). The arrays inside are never trained. One that is `of_data`
    looks at `x0` and `eps` of its point, and has no answer where `x_t` is none of what they make.
    """

    of_data: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, point: Point) -> Float[Array, "*shape"]:
        """`dx_t/dt` at a point."""

    @abc.abstractmethod
    def advance(self, point: Point, r: Scalar) -> Point:
        """The point at time `r < t`, one step along the same path: what the discrete methods use."""
