"""Ancestral sampling: the reverse-time SDE, step by step."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Array, Float, Int

from scmkit.plugin import Plugin, Slot
from scmkit.sampling import (
    AbstractDescent,
    Denoiser,
    DescentOptions,
    StepCounts,
    posterior_step,
    reverse_diffusion_step,
)
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options(DescentOptions):
    """Options of ancestral sampling."""

    variance: Literal["posterior", "forward"] = "posterior"
    """Of the fresh noise: the posterior's (ancestral) or the forward step's (reverse diffusion)."""
    steps: StepCounts = (100,)
    """Numbers of steps to show where nobody asks for any; the first is the default."""


class Ancestral(AbstractDescent):
    r"""$y \leftarrow D + (\rho_{i+1}/\rho_i)^2 (y - D) + s\,\varepsilon$, one network evaluation a step.

    $s^2$ is the variance of $p(y_{i+1} \mid y_i, x_0)$, $\rho_{i+1}^2 (1 - \rho_{i+1}^2/\rho_i^2)$: ancestral
    sampling (arXiv 2011.13456, Appendix F; DDPM's smaller variance; DDIM with `eta=1`). Or it is that of the
    forward step, $\rho_i^2 - \rho_{i+1}^2$: the reverse diffusion sampler (Appendix E). Both in the
    variance-exploding form, whatever the process; both of first order, so take many steps.
    """

    options: Options

    @property
    def usual_steps(self) -> tuple[int, ...]:
        return self.options.steps

    def deterministic(self, steps: int) -> bool:
        return False

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
        posterior = self.options.variance == "posterior"
        move = posterior_step if posterior else reverse_diffusion_step
        return move(y, denoise(y, here), here, there, key=key)


plugin = Plugin(
    name="ancestral",
    summary="ancestral sampling of the reverse-time SDE (arXiv 2011.13456)",
    provides={Slot.sampler: Ancestral},
    config=Options,
    samples_from=("diffusion",),
)
