"""EDM's second-order sampler, with churn."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractSampler, Conditioning, SamplerOutput
from scmkit.models.model import AbstractModel
from scmkit.plugin import Plugin, Slot
from scmkit.sampling import DescentOptions, Grid, denoised_at, descend
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class Options(DescentOptions):
    """Options of EDM's sampler; `churn` of 0 is deterministic."""

    grid: Grid = "karras"
    churn: Annotated[float, Ge(0)] = 0.0
    """Fresh noise over all steps (S_churn; 40 of 256 steps on ImageNet-64)."""
    churn_min: Annotated[float, Ge(0)] = 0.0
    """Noise-to-signal ratio below which there is no churn (S_min)."""
    churn_max: Annotated[float, Gt(0)] = 1e6
    """Noise-to-signal ratio above which there is no churn (S_max)."""
    churn_noise: Annotated[float, Gt(0)] = 1.0
    """Standard deviation of the fresh noise (S_noise)."""


class EDMHeun(AbstractSampler):
    r"""Heun's method in the ratio, after noise was added: EDM's stochastic sampler.

    With $\gamma = \min(S_{churn}/N, \sqrt2 - 1)$, from $\hat\rho = (1 + \gamma)\,\rho_i$ and
    $\hat y = y + \sqrt{\hat\rho^2 - \rho_i^2}\; S_{noise}\,\varepsilon$ one step of Heun's method to
    $\rho_{i+1}$; of Euler's where that is 0 (arXiv 2206.00364, Algorithm 2). `N` steps take `2N` network
    evaluations, one less with `to_zero`.
    """

    options: Options
    usual_steps: ClassVar[tuple[int, ...]] = (18,)
    traces_steps: ClassVar[bool] = True

    def deterministic(self, steps: int) -> bool:
        return self.options.churn == 0

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

        def churned(i: Int[Array, ""], y: Array, here: Scalar) -> tuple[Array, Scalar]:
            most = jnp.minimum(o.churn / jnp.asarray(steps, here.dtype), math.sqrt(2) - 1)
            gamma = jnp.where((here >= o.churn_min) & (here <= o.churn_max), most, 0)
            fresh = o.churn_noise * jr.normal(jr.fold_in(key, i), y.shape, y.dtype)
            return y + here * jnp.sqrt(gamma * (2 + gamma)) * fresh, (1 + gamma) * here

        def step(
            i: Int[Array, ""], y: Array, _: tuple[()], here: Scalar, there: Scalar
        ) -> tuple[Array, tuple[()]]:
            if o.churn > 0:
                y, here = churned(i, y, here)
            slope = (y - denoised_at(model, y, here, cond)) / here
            euler = y + (there - here) * slope

            def corrected() -> Array:
                other = (euler - denoised_at(model, euler, there, cond)) / there
                return y + (there - here) * 0.5 * (slope + other)

            return jax.lax.cond(there > 0, corrected, lambda: euler), ()

        x = descend(step, model, noise, o, steps=steps)
        return SamplerOutput(x, jnp.asarray(2 * steps - int(o.to_zero), jnp.int32))


plugin = Plugin(
    name="heun",
    summary="EDM's sampler: Heun's method with churn (arXiv 2206.00364, Algorithm 2)",
    provides={Slot.sampler: EDMHeun},
    config=Options,
)
