"""The model: a network under a parameterization."""

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractParameterization,
    Conditioning,
)
from scmkit.types import Key, Scalar


class Model(eqx.Module):
    r"""A network that knows what its output means, on one sample.

    $f(x_t, t) = c_{skip} x_t + c_{out} F(c_{in} x_t, c_{noise})$, with the coefficients of the
    parameterization. Time is in the process's own units and float32 whatever the sample's dtype.
    """

    parameterization: AbstractParameterization
    network: AbstractNetwork

    @property
    def process(self) -> AbstractNoiseProcess:
        """The noise process the model was trained under."""
        return self.parameterization.process

    def raw(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar,
        cond: Conditioning | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """The network's output `F(in_(t) x_t, noise(t))`; a `key` of None means no dropout."""
        c = self.parameterization.coefficients(t)
        return self.network(c.in_ * x_t, c.noise, cond, key=key)

    def denoise(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar,
        cond: Conditioning | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """`f(x_t, t)`: the posterior mean after diffusion training, the consistency function after
        consistency training."""
        return self.parameterization.denoise(self.raw(x_t, t, cond, key=key), x_t, t)

    def velocity(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar,
        cond: Conditioning | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """The PF-ODE velocity `dx_t/dt` of a diffusion model."""
        return self.parameterization.velocity(self.raw(x_t, t, cond, key=key), x_t, t)
