"""Unit-variance preconditioning of any noise process."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNoiseProcess, AbstractParameterization, Coefficients
from scmkit.plugin import Context, NoOptions, Plugin, Slot
from scmkit.types import Key, Scalar


class Preconditioned(AbstractParameterization):
    r"""EDM's principle for any affine process: unit-variance input and target.

    With $\tilde\sigma = \sigma/\sigma_d$: $c_{in} = 1/(\sigma_d\sqrt{\alpha^2+\tilde\sigma^2})$,
    $c_{skip} = \alpha/(\alpha^2+\tilde\sigma^2)$,
    $c_{out} = -\sigma_d\tilde\sigma/\sqrt{\alpha^2+\tilde\sigma^2}$. For TrigFlow's process these are
    TrigFlow's (arXiv 2410.11081, Appendix B). The noise label is the angle
    $\arctan(\tilde\sigma/\alpha)$, TrigFlow's time, so that it is benign for every process.
    """

    process: AbstractNoiseProcess
    sigma_data: float

    def coefficients(self, t: Scalar) -> Coefficients:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t) / self.sigma_data
        total = jnp.sqrt(alpha**2 + sigma**2)
        return Coefficients(
            skip=alpha / total**2,
            out=-self.sigma_data * sigma / total,
            in_=1 / (self.sigma_data * total),
            noise=jnp.arctan2(sigma, alpha)[None],
        )

    def weight(self, t: Scalar) -> Scalar:
        return self.process.angular_weight(self.sigma_data, t)

    def velocity(
        self, F: Float[Array, "*shape"], x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        # velocity_from_denoised with D = skip x + out F, the division by sigma carried out.
        alpha, sigma, d_alpha, d_sigma = self.process.rates(t)
        alpha_d, d_alpha_d = self.sigma_data * alpha, self.sigma_data * d_alpha
        square = alpha_d**2 + sigma**2
        radial = (alpha_d * d_alpha_d + sigma * d_sigma) / square
        angular = (d_sigma * alpha_d - sigma * d_alpha_d) / jnp.sqrt(square)
        return radial * x_t + angular * F

    def jump(self, t: Scalar, s: Scalar) -> tuple[Scalar, Scalar]:
        return self.ddim_jump(t, s)


def build(config: NoOptions, context: Context, *, key: Key) -> Preconditioned:
    return Preconditioned(process=context.noise, sigma_data=context.data.sigma_data)


plugin = Plugin(
    name="preconditioned",
    summary="unit-variance preconditioning of any noise process",
    provides={Slot.parameterization: build},
)
