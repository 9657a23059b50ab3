"""EDM's second-order sampler, with churn."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt
from jaxtyping import Array, Float, Int

from scmkit.plugin import Plugin, Slot
from scmkit.sampling import AbstractDescent, Denoiser, DescentOptions, Grid
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


class EDMHeun(AbstractDescent):
    r"""Heun's method in the ratio, after noise was added: EDM's stochastic sampler.

    With $\gamma = \min(S_{churn}/N, \sqrt2 - 1)$, from $\hat\rho = (1 + \gamma)\,\rho_i$ and
    $\hat y = y + \sqrt{\hat\rho^2 - \rho_i^2}\; S_{noise}\,\varepsilon$ one step of Heun's method to
    $\rho_{i+1}$; of Euler's where that is 0 (arXiv 2206.00364, Algorithm 2). `N` steps take `2N` network
    evaluations, one less with `to_zero`.
    """

    options: Options
    usual_steps: ClassVar[tuple[int, ...]] = (18,)

    def deterministic(self, steps: int) -> bool:
        return self.options.churn == 0

    def evaluations(self, steps: int | Int[Array, ""]) -> int | Int[Array, ""]:
        return 2 * steps - int(self.options.to_zero)

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
        if self.options.churn > 0:
            y, here = self.churned(y, here, steps=steps, key=key)
        slope = (y - denoise(y, here)) / here
        euler = y + (there - here) * slope

        def corrected() -> Array:
            other = (euler - denoise(euler, there)) / there
            return y + (there - here) * 0.5 * (slope + other)

        return jax.lax.cond(there > 0, corrected, lambda: euler)

    def churned(
        self,
        y: Float[Array, "*shape"],
        here: Scalar,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> tuple[Float[Array, "*shape"], Scalar]:
        """`y` with fresh noise, and the ratio that it then has."""
        o = self.options
        most = jnp.minimum(o.churn / jnp.asarray(steps, here.dtype), math.sqrt(2) - 1)
        gamma = jnp.where((here >= o.churn_min) & (here <= o.churn_max), most, 0)
        fresh = o.churn_noise * jr.normal(key, y.shape, y.dtype)
        return y + here * jnp.sqrt(gamma * (2 + gamma)) * fresh, (1 + gamma) * here


plugin = Plugin(
    name="heun",
    summary="EDM's sampler: Heun's method with churn (arXiv 2206.00364, Algorithm 2)",
    provides={Slot.sampler: EDMHeun},
    config=Options,
    samples_from=("diffusion",),
)
