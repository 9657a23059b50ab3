"""Tangent estimators: which way `x_t` moves along the PF-ODE."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.interfaces.network import Conditioning
from scmkit.types import Scalar


class AbstractTangentEstimator(eqx.Module):
    """An estimate of `dx_t/dt`, unbiased given `x_t` (arXiv 2410.11081, Section 2.2).

    From the data (sCT) or from a teacher (sCD). The arrays inside are never trained.
    """

    @abc.abstractmethod
    def __call__(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        """`dx_t/dt` at `x_t = alpha(t) x0 + sigma(t) eps`."""

    @abc.abstractmethod
    def advance(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        r: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        """`x_r` for `r < t`, one step along the same path: what the discrete methods use."""
