"""Models, which samplers, tangent estimators and losses hold."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.interfaces.network import UNCONDITIONED, Conditioning
from scmkit.interfaces.noise import AbstractNoiseProcess
from scmkit.interfaces.parameterization import AbstractParameterization
from scmkit.types import AbstractVar, Key, Scalar, as_time


class AbstractModel(eqx.Module):
    r"""A network with the meaning of its output `F`, on one sample.

    $f(x_t, t) = c_{skip} x_t + c_{out} F$, with the coefficients of the parameterization. Time is in the
    process's own units, an array or a Python number, and float32 whatever the sample's dtype.
    """

    parameterization: AbstractVar[AbstractParameterization]
    evaluations: AbstractVar[int]
    """Network evaluations that one call takes."""
    noise_labels: AbstractVar[int]
    """Times the network is told: 1, or 2 for a flow map, which is also told where its jump ends."""

    @property
    def process(self) -> AbstractNoiseProcess:
        """The noise process the model was trained under."""
        return self.parameterization.process

    @abc.abstractmethod
    def raw(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning = UNCONDITIONED,
        *,
        s: Scalar | float | None = None,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """The output `F(in_(t) x_t, noise(t))`, for a flow map `F(in_(t) x_t, noise(t), noise(s))`.

        A model of one time ignores `s`, which by default is the data's time. A `key` of None means no
        dropout.
        """

    def denoise(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning = UNCONDITIONED,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """`f(x_t, t)`: the posterior mean after diffusion training, the end of the PF-ODE path after
        consistency training, the jump to the data of a flow map."""
        F = self.raw(x_t, t, cond, key=key)
        return self.parameterization.denoise(F, x_t, as_time(t))

    def velocity(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        cond: Conditioning = UNCONDITIONED,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        """The PF-ODE velocity `dx_t/dt` of a diffusion model, and of a flow map, from its jump to `t`."""
        F = self.raw(x_t, t, cond, s=t, key=key)
        return self.parameterization.velocity(F, x_t, as_time(t))

    def jump(
        self,
        x_t: Float[Array, "*shape"],
        t: Scalar | float,
        s: Scalar | float,
        cond: Conditioning = UNCONDITIONED,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        r"""The flow map $G(x_t, t, s) = a\, x_t + b\, F$, from time `t` to `s`; `a`, `b` are the
        parameterization's.

        For a model of one time it is the DDIM step that takes `f` for the data.
        """
        F = self.raw(x_t, t, cond, s=s, key=key)
        a, b = self.parameterization.jump(as_time(t), as_time(s))
        return a * x_t + b * F
