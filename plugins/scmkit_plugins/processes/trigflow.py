"""TrigFlow: the process and parameterization of the sCM paper."""

from dataclasses import dataclass
from typing import Annotated

import equinox as eqx
import jax.numpy as jnp
from annotated_types import Gt
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractNoiseProcess,
    AbstractParameterization,
    Coefficients,
)
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options:
    """Options of the TrigFlow process."""

    ratio_max: Annotated[float, Gt(0)] = 80.0
    """Noise-to-signal ratio at which sampling starts."""


class TrigFlowProcess(AbstractNoiseProcess):
    r"""$x_t = \cos t\, x_0 + \sin t\, z$ with $z = \sigma_d \varepsilon$, $t \in [0, \pi/2)$ radians.

    In unit noise `alpha = cos t`, `sigma = sigma_data sin t` (arXiv 2410.11081, Section 3).
    """

    sigma_data: float
    options: Options = eqx.field(static=True, default=Options())

    @property
    def ratio_max(self) -> float:
        return self.options.ratio_max

    def alpha(self, t: Scalar) -> Scalar:
        return jnp.cos(t)

    def sigma(self, t: Scalar) -> Scalar:
        return self.sigma_data * jnp.sin(t)

    def time_at(self, ratio: Scalar) -> Scalar:
        return jnp.arctan(ratio / self.sigma_data)


class TrigFlowParameterization(AbstractParameterization):
    r"""$f = \cos t\, x_t - \sigma_d \sin t\, F(x_t/\sigma_d, t)$; the PF-ODE is $dx/dt = \sigma_d F$.

    The noise label is `t` itself, whose derivative stays bounded (arXiv 2410.11081, Eq. 4 and
    Section 4.1). The weight of `df/dt` is `cos t`: the prior weight `1/(sigma_data tan t)` times
    `sigma_data sin t` (Algorithm 1).
    """

    process: TrigFlowProcess
    sigma_data: float

    def coefficients(self, t: Scalar) -> Coefficients:
        return Coefficients(
            skip=jnp.cos(t),
            out=-self.sigma_data * jnp.sin(t),
            in_=jnp.full_like(t, 1 / self.sigma_data),
            noise=t[None],
        )

    def weight(self, t: Scalar) -> Scalar:
        return jnp.cos(t)

    def velocity(
        self, F: Float[Array, "*shape"], x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        return self.sigma_data * F

    def jump(self, t: Scalar, s: Scalar) -> tuple[Scalar, Scalar]:
        return jnp.cos(t - s), -self.sigma_data * jnp.sin(t - s)


def build_process(config: Options, context: Context, *, key: Key) -> TrigFlowProcess:
    # Pyright takes the abstract `ratio_max` for a field.
    return TrigFlowProcess(sigma_data=context.data.sigma_data, options=config)  # pyright: ignore[reportCallIssue]


def build_parameterization(
    config: Options, context: Context, *, key: Key
) -> TrigFlowParameterization:
    if not isinstance(context.noise, TrigFlowProcess):
        raise TypeError(
            f"the trigflow parameterization needs the trigflow process, not "
            f"{type(context.noise).__name__}; 'preconditioned' serves every process"
        )
    return TrigFlowParameterization(process=context.noise, sigma_data=context.data.sigma_data)


plugin = Plugin(
    name="trigflow",
    summary="TrigFlow process and parameterization (sCM, arXiv 2410.11081)",
    provides={Slot.noise: build_process, Slot.parameterization: build_parameterization},
    config=Options,
)
