"""The model: a network under a parameterization."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import (
    UNCONDITIONED,
    AbstractModel,
    AbstractNetwork,
    AbstractParameterization,
    Conditioning,
    hidden_of,
)
from scmkit.models.inputs import Inputs
from scmkit.types import Key, Scalar, as_time

Precision = Literal["float32", "bfloat16"]

LEAST_RATIO = 1e-4
"""The noise-to-signal ratio whose noise label stands for the data, where some labels are infinite."""


class Model(AbstractModel):
    """A network under a parameterization.

    `precision` is the dtype in which the network computes; its weights, the time path, and what goes
    in and comes out stay float32: in bfloat16 it would ruin `dF/dt`. With `noise_labels` of 2 it is a flow
    map, whose network is also told the noise label of the time `s` where its jump ends. `inputs` says what
    it was built for; anything else, such as a batch, is refused with an `InputError`.
    """

    parameterization: AbstractParameterization
    network: AbstractNetwork
    precision: Precision = eqx.field(static=True, default="float32")
    evaluations: int = eqx.field(static=True, default=1)
    noise_labels: int = eqx.field(static=True, default=1)
    inputs: Inputs = eqx.field(static=True, default=Inputs())

    def raw(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning = UNCONDITIONED,
        *,
        s: Scalar | float | None = None,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        x, labels = self._told(x_t, t, cond, s)
        F = self.network(x, labels, cond, key=key)
        return F if F.dtype == x_t.dtype else F.astype(x_t.dtype)

    def hidden(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning = UNCONDITIONED,
        *,
        s: Scalar | float | None = None,
        key: Key | None = None,
    ) -> Float[Array, "*space c"]:
        """The network's features of a noisy sample, channels last (see `hidden_of`)."""
        x, labels = self._told(x_t, t, cond, s)
        return hidden_of(self.network, x, labels, cond, key=key).astype(x_t.dtype)

    def _told(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning,
        s: Scalar | float | None,
    ) -> tuple[Float[Array, "*shape"], Float[Array, " k"]]:
        """The network's input in the dtype in which it computes, and its noise labels."""
        self.inputs.check(x_t, t, cond, s)
        t = as_time(t)
        c = self.parameterization.coefficients(t)
        labels = c.noise
        if self.noise_labels == 2:
            least = self.process.time_at(jnp.asarray(LEAST_RATIO, t.dtype))
            end = least if s is None else jnp.maximum(as_time(s), least)
            labels = jnp.concatenate([labels, self.parameterization.coefficients(end).noise])
        x = c.in_ * x_t
        low = x if self.precision == "float32" else x.astype(jnp.dtype(self.precision))
        return low, labels
