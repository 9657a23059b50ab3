"""Score SDE's predictor-corrector sampler."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.random as jr
from annotated_types import Gt
from jaxtyping import Array, Float, Int

from scmkit.plugin import Plugin, Slot
from scmkit.sampling import AbstractDescent, Denoiser, DescentOptions, Grid, reverse_diffusion_step
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options(DescentOptions):
    """Options of the predictor-corrector sampler."""

    grid: Grid = "log-snr"
    snr: Annotated[float, Gt(0)] = 0.16
    """The corrector's signal-to-noise ratio: how far a Langevin step goes."""
    corrections: Annotated[int, Gt(0)] = 1
    """Langevin steps at each noise level."""


class PredictorCorrector(AbstractDescent):
    r"""A reverse-diffusion step, then Langevin steps at the level it leads to.

    The corrector is $y \leftarrow y + \epsilon\, s + \sqrt{2\epsilon}\, z$ with the score
    $s = -\hat\varepsilon / \rho$ and $\epsilon = 2\,(r\,\|z\| / \|s\|)^2$ (arXiv 2011.13456, Algorithms 2 and
    4). $\|z\| / \|s\|$ is taken to be $\rho$, as it is where the model sees little but noise: the quotient of
    one sample has heavy tails in few dimensions, and the authors' mean over a batch is nothing one sample
    knows. One network evaluation for each predictor and each corrector step; ratio 0 has no corrector.
    """

    options: Options
    usual_steps: ClassVar[tuple[int, ...]] = (100,)

    def deterministic(self, steps: int) -> bool:
        return False

    def evaluations(self, steps: int | Int[Array, ""]) -> int | Int[Array, ""]:
        return steps + self.options.corrections * (steps - int(self.options.to_zero))

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
        k_predict, k_correct = jr.split(key)
        y = reverse_diffusion_step(y, denoise(y, here), here, there, key=k_predict)

        def langevin(j: Int[Array, ""], y: Array) -> Array:
            epsilon = (y - denoise(y, there)) / there
            fresh = jr.normal(jr.fold_in(k_correct, j), y.shape, y.dtype)
            return y + 2 * self.options.snr * there * (fresh - self.options.snr * epsilon)

        def corrected() -> Array:
            return jax.lax.fori_loop(0, self.options.corrections, langevin, y)

        return jax.lax.cond(there > 0, corrected, lambda: y)


plugin = Plugin(
    name="predictor-corrector",
    summary="reverse diffusion with Langevin corrections (Score SDE, arXiv 2011.13456)",
    provides={Slot.sampler: PredictorCorrector},
    config=Options,
    samples_from=("diffusion",),
)
