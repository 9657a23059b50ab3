"""EDM: the variance-exploding process with EDM's preconditioning."""

from typing import Annotated

import jax.numpy as jnp
from annotated_types import Gt
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractNoiseProcess,
    AbstractParameterization,
    Coefficients,
)
from scmkit.plugin import Context, Plugin, Slot, itself
from scmkit.types import Key, Scalar


class VarianceExploding(AbstractNoiseProcess):
    r"""$x_t = x_0 + t\,\varepsilon$: time is the noise level, in the data's units (arXiv 2206.00364)."""

    ratio_max: Annotated[float, Gt(0)] = 80.0
    """Noise-to-signal ratio at which sampling starts."""

    def alpha(self, t: Scalar) -> Scalar:
        return jnp.ones_like(t)

    def sigma(self, t: Scalar) -> Scalar:
        return t

    def time_at(self, ratio: Scalar) -> Scalar:
        return ratio


class EDMParameterization(AbstractParameterization):
    r"""EDM's preconditioning of a variance-exploding process (arXiv 2206.00364, Table 1).

    $c_{skip} = \sigma_d^2/(t^2+\sigma_d^2)$, $c_{out} = t\sigma_d/\sqrt{t^2+\sigma_d^2}$,
    $c_{in} = 1/\sqrt{t^2+\sigma_d^2}$, $c_{noise} = \tfrac14 \ln t$. The network is minus TrigFlow's at
    the matched state.
    """

    process: VarianceExploding
    sigma_data: float

    def coefficients(self, t: Scalar) -> Coefficients:
        total = jnp.sqrt(t**2 + self.sigma_data**2)
        return Coefficients(
            skip=(self.sigma_data / total) ** 2,
            out=t * self.sigma_data / total,
            in_=1 / total,
            noise=0.25 * jnp.log(t)[None],
        )

    def weight(self, t: Scalar) -> Scalar:
        return self.process.angular_weight(self.sigma_data, t)

    def velocity(
        self, F: Float[Array, "*shape"], x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        # (x - skip x - out F) / t with the division by t carried out, so that t -> 0 is regular.
        total = jnp.sqrt(t**2 + self.sigma_data**2)
        return (t / total**2) * x_t - (self.sigma_data / total) * F

    def jump(self, t: Scalar, s: Scalar) -> tuple[Scalar, Scalar]:
        return self.ddim_jump(t, s)


def build_parameterization(
    config: VarianceExploding, context: Context, *, key: Key
) -> EDMParameterization:
    if not isinstance(context.noise, VarianceExploding):
        raise TypeError(
            f"EDM's preconditioning needs the edm process, not {type(context.noise).__name__}; "
            "'preconditioned' serves every process"
        )
    return EDMParameterization(process=context.noise, sigma_data=context.data.sigma_data)


plugin = Plugin(
    name="edm",
    summary="variance-exploding process with EDM preconditioning (arXiv 2206.00364)",
    provides={Slot.noise: itself, Slot.parameterization: build_parameterization},
    config=VarianceExploding,
)
