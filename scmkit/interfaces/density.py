"""Densities known in closed form, with which trained models can be compared."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.interfaces.noise import AbstractNoiseProcess
from scmkit.types import Scalar


class AbstractDensity(eqx.Module):
    """A density over vectors whose PF-ODE can be solved exactly."""

    @abc.abstractmethod
    def affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "AbstractDensity":
        """The density of `(x - shift) * scale`."""

    @abc.abstractmethod
    def denoise(
        self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar
    ) -> Float[Array, " d"]:
        """The posterior mean `E[x0 | x_t]`."""

    @abc.abstractmethod
    def consistency(
        self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar
    ) -> Float[Array, " d"]:
        """The exact end of the PF-ODE path through `(x_t, t)`."""

    @abc.abstractmethod
    def flow_map(
        self, process: AbstractNoiseProcess, x_t: Float[Array, " d"], t: Scalar, s: Scalar
    ) -> Float[Array, " d"]:
        """Where the PF-ODE path through `(x_t, t)` is at time `s`; at the data it is `consistency`."""
