"""Samplers that go down a grid of noise levels, one step after another."""

import abc
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractModel, AbstractSampler, Conditioning, SamplerOutput
from scmkit.sampling.denoising import denoised_at, descend
from scmkit.sampling.grid import DescentOptions
from scmkit.types import AbstractVar, Key, Scalar

Denoiser = Callable[[Array, Scalar], Array]
r"""`D(y, ratio)`: the model's denoised sample at $y = x_0 + \rho\,\varepsilon$; needs `ratio > 0`."""


class AbstractDescent(AbstractSampler):
    """A sampler in the coordinates that all processes share; a final class says what one step does.

    For steps that remember those before them there is `descend`.
    """

    options: AbstractVar[DescentOptions]
    traces_steps: ClassVar[bool] = True

    @abc.abstractmethod
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
        """`y` at the ratio `there`, which may be 0, from `y` at the ratio `here`; one of `steps`."""

    @abc.abstractmethod
    def evaluations(self, steps: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The network evaluations of so many steps."""

    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> SamplerOutput:
        def denoise(y: Array, ratio: Scalar) -> Array:
            return denoised_at(model, y, ratio, cond)

        def step(
            i: Int[Array, ""], y: Array, _: tuple[()], here: Scalar, there: Scalar
        ) -> tuple[Array, tuple[()]]:
            fresh = jr.fold_in(key, i)
            return self.step(denoise, y, here, there, steps=steps, key=fresh), ()

        x = descend(step, model, noise, self.options, steps=steps)
        return SamplerOutput(x, jnp.asarray(self.evaluations(steps), jnp.int32))
