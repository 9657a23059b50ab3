"""DDIM, and everything between it and ancestral sampling."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from jaxtyping import Array, Float, Int

from scmkit.plugin import Plugin, Slot
from scmkit.sampling import (
    AbstractDescent,
    Denoiser,
    DescentOptions,
    StepCounts,
    ddim_step,
    posterior_step,
)
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options(DescentOptions):
    """Options of DDIM."""

    eta: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of fresh noise: 0 is the deterministic sampler, 1 ancestral sampling."""
    steps: StepCounts = (18,)
    """Numbers of steps to show where nobody asks for any; the first is the default."""


class DDIM(AbstractDescent):
    r"""$y \leftarrow D + (\rho_{i+1}/\rho_i)\,(y - D)$, with `eta` partly by fresh noise.

    The first-order solver of the PF-ODE that DPM-Solver-1 and Euler in the ratio are, too; one network
    evaluation a step (arXiv 2010.02502, Eqs. 12 and 16).
    """

    options: Options

    @property
    def usual_steps(self) -> tuple[int, ...]:
        return self.options.steps

    def deterministic(self, steps: int) -> bool:
        return self.options.eta == 0

    def evaluations(self, steps: int | Int[Array, ""]) -> int | Int[Array, ""]:
        return steps

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
        eta, denoised = self.options.eta, denoise(y, here)
        if eta == 0:
            return ddim_step(y, denoised, here, there)
        return posterior_step(y, denoised, here, there, eta=eta, key=key)


plugin = Plugin(
    name="ddim",
    summary="DDIM, deterministic or with fresh noise (arXiv 2010.02502)",
    provides={Slot.sampler: DDIM},
    config=Options,
    samples_from=("diffusion",),
)
