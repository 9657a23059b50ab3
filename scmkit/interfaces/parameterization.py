"""Parameterizations: the meaning of the raw network's output."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.interfaces.noise import AbstractNoiseProcess
from scmkit.types import AbstractVar, Scalar


class Coefficients(eqx.Module):
    """The preconditioning at one time: `f = skip x + out F(in_ x, noise)`."""

    skip: Scalar
    out: Scalar
    in_: Scalar
    noise: Float[Array, " k"]


class AbstractParameterization(eqx.Module):
    r"""How a network `F` becomes a denoiser, a velocity and a consistency function.

    $$f(x_t, t) = c_{skip}(t)\, x_t + c_{out}(t)\, F(c_{in}(t)\, x_t, c_{noise}(t))$$

    After diffusion training `f` is the posterior mean $E[x_0 \mid x_t]$, after consistency training
    the map from `x_t` to the end of its PF-ODE path (EDM, arXiv 2206.00364, Eq. 7;
    arXiv 2410.11081, Section 3). All scalars are float32.
    """

    process: AbstractVar[AbstractNoiseProcess]
    sigma_data: AbstractVar[float]

    @abc.abstractmethod
    def coefficients(self, t: Scalar) -> Coefficients:
        """The preconditioning at time `t`; differentiable on `(0, t_max]`."""

    @abc.abstractmethod
    def weight(self, t: Scalar) -> Scalar:
        """The positive weight of `df/dt` in the consistency objective; `cos t` for TrigFlow."""

    @abc.abstractmethod
    def velocity(
        self, F: Float[Array, "*shape"], x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        """The PF-ODE velocity `dx_t/dt` that a diffusion model's output `F` stands for."""

    @abc.abstractmethod
    def jump(self, t: Scalar, s: Scalar) -> tuple[Scalar, Scalar]:
        r"""`(a, b)` of the flow map $G(x_t, t, s) = a\, x_t + b\, F$ from time `t` to `s`.

        $G$ is the DDIM step that takes $c_{skip} x_t + c_{out} F$ for the data, so that with `s` at the
        data `a` and `b` are `skip` and `out`. `ddim_jump` computes it for every process; a closed form
        keeps more digits as `s -> t`.
        """

    def denoise(
        self, F: Float[Array, "*shape"], x_t: Float[Array, "*shape"], t: Scalar
    ) -> Float[Array, "*shape"]:
        """`skip x_t + out F`."""
        c = self.coefficients(t)
        return c.skip * x_t + c.out * F

    def ddim_jump(self, t: Scalar, s: Scalar) -> tuple[Scalar, Scalar]:
        r"""`jump` for any process, by the coefficients of the DDIM step.

        $$a = \frac{\sigma_s}{\sigma_t} + k\, c_{skip}, \quad b = k\, c_{out}, \quad
          k = \alpha_s - \alpha_t \frac{\sigma_s}{\sigma_t}
            = \frac{\alpha_s \alpha_t}{\sigma_t} (\rho_t - \rho_s)$$

        As `s -> t` it loses digits in the difference of the ratios $\rho$ (DDIM, arXiv 2010.02502, Eq. 12;
        CTM's outer map, arXiv 2310.02279, Eq. 9, for a variance-exploding process).
        """
        process, c = self.process, self.coefficients(t)
        alphas = process.alpha(s) * process.alpha(t)
        k = alphas * (process.ratio(t) - process.ratio(s)) / process.sigma(t)
        return process.sigma(s) / process.sigma(t) + k * c.skip, k * c.out
