"""Score SDE's predictor-corrector sampler."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Gt
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractSampler, Conditioning, SamplerOutput
from scmkit.models.model import AbstractModel
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import (
    DescentOptions,
    Grid,
    denoised_at,
    descend,
    reverse_diffusion_step,
)
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options(DescentOptions):
    """Options of the predictor-corrector sampler."""

    grid: Grid = "log-snr"
    snr: Annotated[float, Gt(0)] = 0.16
    """The corrector's signal-to-noise ratio: how far a Langevin step goes."""
    corrections: Annotated[int, Gt(0)] = 1
    """Langevin steps at each noise level."""


class PredictorCorrector(AbstractSampler):
    r"""A reverse-diffusion step, then Langevin steps at the level it leads to.

    The corrector is $y \leftarrow y + \epsilon\, s + \sqrt{2\epsilon}\, z$ with the score
    $s = -\hat\varepsilon / \rho$ and $\epsilon = 2\,(r\,\|z\| / \|s\|)^2$ (arXiv 2011.13456, Algorithms 2 and
    4). $\|z\| / \|s\|$ is taken to be $\rho$, as it is where the model sees little but noise: the quotient of
    one sample has heavy tails in few dimensions, and the authors' mean over a batch is nothing one sample
    knows. One network evaluation for each predictor and each corrector step; ratio 0 has no corrector.
    """

    options: Options
    usual_steps: ClassVar[tuple[int, ...]] = (100,)
    traces_steps: ClassVar[bool] = True

    def deterministic(self, steps: int) -> bool:
        return False

    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning | None,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> SamplerOutput:
        o = self.options

        def corrected(y: Array, ratio: Scalar, key: Key) -> Array:
            def langevin(j: Int[Array, ""], y: Array) -> Array:
                epsilon = (y - denoised_at(model, y, ratio, cond)) / ratio
                fresh = jr.normal(jr.fold_in(key, j), y.shape, y.dtype)
                return y + 2 * o.snr * ratio * (fresh - o.snr * epsilon)

            return jax.lax.fori_loop(0, o.corrections, langevin, y)

        def step(
            i: Int[Array, ""], y: Array, _: tuple[()], here: Scalar, there: Scalar
        ) -> tuple[Array, tuple[()]]:
            k_predict, k_correct = jr.split(jr.fold_in(key, i))
            denoised = denoised_at(model, y, here, cond)
            y = reverse_diffusion_step(y, denoised, here, there, key=k_predict)
            return jax.lax.cond(there > 0, lambda: corrected(y, there, k_correct), lambda: y), ()

        x = descend(step, model, noise, o, steps=steps)
        nfe = steps + o.corrections * (steps - int(o.to_zero))
        return SamplerOutput(x, jnp.asarray(nfe, jnp.int32))


plugin = Plugin(
    name="predictor-corrector",
    summary="reverse diffusion with Langevin corrections (Score SDE, arXiv 2011.13456)",
    provides={Slot.sampler: PredictorCorrector},
    config=Options,
)
