"""DPM-Solver: exponential integrators in the noise prediction."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from scmkit.plugin import Plugin, Slot
from scmkit.sampling import AbstractDescent, Denoiser, DescentOptions, Grid
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options(DescentOptions):
    """Options of DPM-Solver."""

    grid: Grid = "log-snr"
    order: Literal[1, 2, 3] = 2
    """Order of convergence, and network evaluations a step; 1 is DDIM."""


class DPMSolver(AbstractDescent):
    r"""DPM-Solver-1, -2 and -3, singlestep, in $\lambda = -\log\rho$ with $h = \lambda_{i+1} - \lambda_i$.

    With $\hat\varepsilon = (y - D)/\rho$ order 1 is $y - \rho_{i+1}(e^h - 1)\,\hat\varepsilon_i$, DDIM;
    order 2 adds a point in the middle ($r_1 = 1/2$), order 3 two at thirds (arXiv 2206.00927, Algorithms 1
    and 2). A step to ratio 0 is of order 1.
    """

    options: Options
    usual_steps: ClassVar[tuple[int, ...]] = (18,)

    def deterministic(self, steps: int) -> bool:
        return True

    def evaluations(self, steps: int | Int[Array, ""]) -> int | Int[Array, ""]:
        return self.options.order * (steps - int(self.options.to_zero)) + int(self.options.to_zero)

    def step(
        self,
        denoise: Denoiser,
        y: Float[Array, "*shape"],
        here: Scalar,
        there: Scalar,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> Float[Array, "*shape"]:
        def epsilon(y: Array, ratio: Scalar) -> Array:
            return (y - denoise(y, ratio)) / ratio

        first = epsilon(y, here)

        def euler() -> Array:
            return y - (here - there) * first

        def second() -> Array:
            middle = jnp.sqrt(here * there)
            return y - (here - there) * epsilon(y - (here - middle) * first, middle)

        def third() -> Array:
            # rho_s (e^(rh) - 1) = here - rho_s, and rho_s ((e^(rh) - 1) / (rh) - 1) as `bend`.
            h = jnp.log(here / there)
            one, two = here * (there / here) ** (1 / 3), here * (there / here) ** (2 / 3)

            def bend(ratio: Scalar, part: float) -> Scalar:
                return (here - ratio) / (part * h) - ratio

            change = epsilon(y - (here - one) * first, one) - first
            u = y - (here - two) * first - 2 * bend(two, 2 / 3) * change
            change = epsilon(u, two) - first
            return y - (here - there) * first - 1.5 * bend(there, 1) * change

        if self.options.order == 1:
            return euler()
        return jax.lax.cond(there > 0, second if self.options.order == 2 else third, euler)


plugin = Plugin(
    name="dpm-solver",
    summary="DPM-Solver-1, -2, -3, singlestep (arXiv 2206.00927)",
    provides={Slot.sampler: DPMSolver},
    config=Options,
    samples_from=("diffusion",),
)
