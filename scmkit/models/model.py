"""The model: a network under a parameterization."""

import abc
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.composing.conformity import expect_array
from scmkit.interfaces import (
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractParameterization,
    Conditioning,
)
from scmkit.types import AbstractVar, Key, Scalar

Precision = Literal["float32", "bfloat16"]


def as_time(t: Scalar | float) -> Scalar:
    """A time as an array: float32 where it is a Python number."""
    return jnp.asarray(t, None if isinstance(t, jax.Array) else jnp.float32)


class AbstractModel(eqx.Module):
    r"""What samplers and teachers hold: an output `F` that knows what it means, on one sample.

    $f(x_t, t) = c_{skip} x_t + c_{out} F$, with the coefficients of the parameterization. Time is in the
    process's own units, an array or a Python number, and float32 whatever the sample's dtype.
    """

    parameterization: AbstractVar[AbstractParameterization]
    evaluations: AbstractVar[int]
    """Network evaluations that one call takes."""

    @property
    def process(self) -> AbstractNoiseProcess:
        """The noise process the model was trained under."""
        return self.parameterization.process

    @abc.abstractmethod
    def raw(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """The output `F(in_(t) x_t, noise(t))`; a `key` of None means no dropout."""

    def denoise(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """`f(x_t, t)`: the posterior mean after diffusion training, the consistency function after
        consistency training."""
        t = as_time(t)
        return self.parameterization.denoise(self.raw(x_t, t, cond, key=key), x_t, t)

    def velocity(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """The PF-ODE velocity `dx_t/dt` of a diffusion model."""
        t = as_time(t)
        return self.parameterization.velocity(self.raw(x_t, t, cond, key=key), x_t, t)


class Model(AbstractModel):
    """A network under a parameterization.

    `precision` is the dtype in which the network computes; its weights, the time path, and what goes
    in and comes out stay float32: in bfloat16 it would ruin `dF/dt`.
    """

    parameterization: AbstractParameterization
    network: AbstractNetwork
    precision: Precision = eqx.field(static=True, default="float32")
    evaluations: int = eqx.field(static=True, default=1)

    def raw(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        c = self.parameterization.coefficients(as_time(t))
        x = c.in_ * x_t
        low = x if self.precision == "float32" else x.astype(jnp.dtype(self.precision))
        F = self.network(low, c.noise, cond, key=key)
        expect_array(self.network, "network", F, x.shape, x.dtype, low.dtype)
        return F if F.dtype == x.dtype else F.astype(x.dtype)
