"""DDIM, and everything between it and ancestral sampling."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractSampler, Conditioning, SamplerOutput
from scmkit.models.model import AbstractModel
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import DescentOptions, ddim_step, denoised_at, descend, posterior_step
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options(DescentOptions):
    """Options of DDIM."""

    eta: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of fresh noise: 0 is the deterministic sampler, 1 ancestral sampling."""


class DDIM(AbstractSampler):
    r"""$y \leftarrow D + (\rho_{i+1}/\rho_i)\,(y - D)$, with `eta` partly by fresh noise.

    The first-order solver of the PF-ODE that DPM-Solver-1 and Euler in the ratio are, too; one network
    evaluation a step (arXiv 2010.02502, Eqs. 12 and 16).
    """

    options: Options
    usual_steps: ClassVar[tuple[int, ...]] = (18,)
    traces_steps: ClassVar[bool] = True

    def deterministic(self, steps: int) -> bool:
        return self.options.eta == 0

    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning | None,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> SamplerOutput:
        eta = self.options.eta

        def step(
            i: Int[Array, ""], y: Array, _: tuple[()], here: Scalar, there: Scalar
        ) -> tuple[Array, tuple[()]]:
            denoised = denoised_at(model, y, here, cond)
            if eta == 0:
                return ddim_step(y, denoised, here, there), ()
            fresh = jr.fold_in(key, i)
            return posterior_step(y, denoised, here, there, eta=eta, key=fresh), ()

        x = descend(step, model, noise, self.options, steps=steps)
        return SamplerOutput(x, jnp.asarray(steps, jnp.int32))


plugin = Plugin(
    name="ddim",
    summary="DDIM, deterministic or with fresh noise (arXiv 2010.02502)",
    provides={Slot.sampler: DDIM},
    config=Options,
)
