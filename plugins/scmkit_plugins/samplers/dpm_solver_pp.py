"""DPM-Solver++: exponential integrators in the data prediction."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractModel, AbstractSampler, Conditioning, SamplerOutput
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import (
    DescentOptions,
    Grid,
    Step,
    ddim_step,
    denoised_at,
    descend,
    posterior_step,
)
from scmkit.types import Key, Scalar, sum_dtype

Past = tuple[tuple[Array, Scalar], ...]
"""Denoised samples of the steps before, newest first, each with the length of its step in lambda."""


@dataclass(frozen=True)
class Options(DescentOptions):
    """Options of DPM-Solver++."""

    grid: Grid = "log-snr"
    method: Literal["2S", "2M", "3M", "SDE-2M"] = "2M"
    """Order, and singlestep (two evaluations a step) or multistep (one); SDE-2M adds fresh noise."""
    lower_order_final: bool = False
    """Whether multistep orders fall to 1 in the last steps, which helps where there are few."""


class DPMSolverPP(AbstractSampler):
    r"""DDIM steps with a better denoised sample, in $\lambda = -\log\rho$, $h_i = \lambda_{i+1} - \lambda_i$.

    2S takes $D$ at the step's middle. 2M extrapolates to there,
    $\bar D = D_i + \tfrac{h_i}{2 h_{i-1}}(D_i - D_{i-1})$; 3M adds the second difference. SDE-2M is an
    ancestral step with the $\bar D$ of 2M (arXiv 2211.01095, Algorithms 1 and 2, Section 5).

    The authors' code for 3M has half of $D''$ where the expansion has all of it, and so is of order 2; this
    one is of order 3. Multistep methods start at order 1; a step to ratio 0 is of order 1.
    """

    options: Options
    usual_steps: ClassVar[tuple[int, ...]] = (18,)
    traces_steps: ClassVar[bool] = True

    def deterministic(self, steps: int) -> bool:
        return self.options.method != "SDE-2M"

    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> SamplerOutput:
        o = self.options
        if o.method == "2S":
            x = descend(_in_the_middle(model, cond), model, noise, o, steps=steps)
            last = int(o.to_zero)
            return SamplerOutput(x, jnp.asarray(2 * (steps - last) + last, jnp.int32))
        order = 3 if o.method == "3M" else 2

        def step(
            i: Int[Array, ""], y: Array, past: Past, here: Scalar, there: Scalar
        ) -> tuple[Array, Past]:
            denoised = denoised_at(model, y, here, cond)
            # A step to ratio 0 is of order 1; half the ratio keeps what it does not use finite.
            below = jnp.where(there > 0, there, here / 2)
            known = jnp.minimum(order, i + 1)
            if o.lower_order_final:
                known = jnp.minimum(known, steps - i)
            target = _extrapolated(denoised, past, here, below, jnp.where(there > 0, known, 1))
            past = ((denoised, jnp.log(here / below)), *past)[: order - 1]
            if o.method == "SDE-2M":
                return posterior_step(y, target, here, there, key=jr.fold_in(key, i)), past
            return ddim_step(y, target, here, there), past

        nothing = (jnp.zeros_like(noise), jnp.ones((), sum_dtype(noise.dtype)))
        x = descend(step, model, noise, o, steps=steps, memory=(nothing,) * (order - 1))
        return SamplerOutput(x, jnp.asarray(steps, jnp.int32))


def _in_the_middle(model: AbstractModel, cond: Conditioning) -> Step:
    r"""2S with $r_1 = 1/2$: the denoised sample of the step's middle in $\lambda$."""

    def step(
        i: Int[Array, ""], y: Array, _: tuple[()], here: Scalar, there: Scalar
    ) -> tuple[Array, tuple[()]]:
        denoised = denoised_at(model, y, here, cond)

        def halfway() -> Array:
            middle = jnp.sqrt(here * there)
            return denoised_at(model, ddim_step(y, denoised, here, middle), middle, cond)

        target = jax.lax.cond(there > 0, halfway, lambda: denoised)
        return ddim_step(y, target, here, there), ()

    return step


def _extrapolated(
    denoised: Array, past: Past, here: Scalar, there: Scalar, order: Int[Array, ""]
) -> Array:
    r"""The constant $\bar D$ that stands for $D$ over a step, from Newton's divided differences in $\lambda$.

    For order 3, $\bar D (1 - e^{-h}) = \int_0^h e^{\tau - h} (D + D' \tau + \tfrac12 D'' \tau^2)\, d\tau$.
    """
    h = jnp.log(here / there)
    (before, h1), *older = past
    slope = (denoised - before) / h1
    choices = [denoised, denoised + 0.5 * h * slope]
    if older:
        [(earlier, h2)] = older
        bend = (slope - (before - earlier) / h2) / (h1 + h2)
        weight = -jnp.expm1(-h)
        first, second = h - weight, h**2 - 2 * (h - weight)
        choices.append(denoised + (first * (slope + h1 * bend) + second * bend) / weight)
    return jax.lax.select_n(order - 1, *choices)


plugin = Plugin(
    name="dpm-solver-pp",
    summary="DPM-Solver++: 2S, 2M, 3M and SDE-2M (arXiv 2211.01095)",
    provides={Slot.sampler: DPMSolverPP},
    config=Options,
    samples_from=("diffusion",),
)
