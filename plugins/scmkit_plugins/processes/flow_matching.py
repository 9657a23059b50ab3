"""Flow matching: the straight-line process with a raw velocity network."""

from typing import Annotated

import jax.numpy as jnp
from annotated_types import Gt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNoiseProcess, AbstractParameterization, Coefficients
from scmkit.plugin import Context, Plugin, Slot, itself
from scmkit.types import Key, Scalar


class RectifiedFlow(AbstractNoiseProcess):
    r"""$x_t = (1 - t)\, x_0 + t\,\varepsilon$, $t \in [0, 1)$ (arXiv 2209.03003, 2210.02747)."""

    ratio_max: Annotated[float, Gt(0)] = 80.0
    """Noise-to-signal ratio at which sampling starts."""

    def alpha(self, t: Scalar) -> Scalar:
        return 1 - t

    def sigma(self, t: Scalar) -> Scalar:
        return t

    def time_at(self, ratio: Scalar) -> Scalar:
        return ratio / (1 + ratio)


class VelocityParameterization(AbstractParameterization):
    r"""The network is the velocity itself: $dx/dt = F(x_t, t)$ and $f = x_t - t\, F$.

    The noise label is `t`.
    """

    process: RectifiedFlow
    sigma_data: float

    def coefficients(self, t: Scalar) -> Coefficients:
        return Coefficients(skip=jnp.ones_like(t), out=-t, in_=jnp.ones_like(t), noise=t[None])

    def weight(self, t: Scalar) -> Scalar:
        return self.process.angular_weight(self.sigma_data, t)

    def velocity(
        self, F: Float[Array, "*shape"], x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        return F

    def jump(self, t: Scalar, s: Scalar) -> tuple[Scalar, Scalar]:
        return jnp.ones_like(t), s - t


def build_parameterization(
    config: RectifiedFlow, context: Context, *, key: Key
) -> VelocityParameterization:
    if not isinstance(context.noise, RectifiedFlow):
        raise TypeError(
            f"the raw velocity needs the flow-matching process, not "
            f"{type(context.noise).__name__}; 'preconditioned' serves every process"
        )
    return VelocityParameterization(process=context.noise, sigma_data=context.data.sigma_data)


plugin = Plugin(
    name="flow-matching",
    summary="rectified flow with a raw velocity network (arXiv 2210.02747)",
    provides={Slot.noise: itself, Slot.parameterization: build_parameterization},
    config=RectifiedFlow,
)
