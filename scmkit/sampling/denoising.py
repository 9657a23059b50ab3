r"""Solvers in the coordinates that all noise processes share.

With $y = x_t / \alpha(t)$ and the noise-to-signal ratio $\rho = \sigma / \alpha$ every process reads
$y = x_0 + \rho\,\varepsilon$, and its probability-flow ODE, with the posterior mean $D$,

$$\frac{dy}{d\rho} = \frac{y - D(y, \rho)}{\rho}.$$

These are EDM's coordinates (arXiv 2206.00364, Section 4; 2410.11081, Appendix B), in which a sampler reads
as in its paper and serves all processes. $\lambda = -\log\rho$ is the DPM-Solvers' half log-SNR.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractModel, Conditioning
from scmkit.sampling.grid import DescentOptions, ratio_on_grid
from scmkit.types import Key, Scalar, sum_dtype

Step = Callable[[Int[Array, ""], Array, Any, Scalar, Scalar], tuple[Array, Any]]
"""`(i, y, memory, here, there) -> (y, memory)`: step `i`, from the ratio `here` down to `there`."""


def denoised_at(
    model: AbstractModel, y: Float[Array, "*shape"], ratio: Scalar, cond: Conditioning
) -> Float[Array, "*shape"]:
    r"""`D(y, ratio)`, the model's denoised sample at $y = x_0 + \rho\,\varepsilon$; needs `ratio > 0`."""
    t = model.process.time_at(ratio)
    return model.denoise(model.process.alpha(t) * y, t, cond)


def ddim_step(
    y: Float[Array, "*shape"], denoised: Float[Array, "*shape"], here: Scalar, there: Scalar
) -> Float[Array, "*shape"]:
    r"""DDIM: $D + (\rho_{there} / \rho_{here})\,(y - D)$, Euler in the ratio (arXiv 2010.02502, Eq. 12)."""
    return denoised + (there / here) * (y - denoised)


def posterior_step(
    y: Float[Array, "*shape"],
    denoised: Float[Array, "*shape"],
    here: Scalar,
    there: Scalar,
    *,
    eta: float = 1.0,
    key: Key,
) -> Float[Array, "*shape"]:
    r"""DDIM to a level below `there`, and fresh noise up to it.

    With $q = \rho_{there} / \rho_{here}$ the fresh noise has the standard deviation
    $\eta\,\rho_{there} \sqrt{1 - q^2}$; for $\eta = 1$ it is a draw of $p(y_{there} \mid y_{here}, x_0 = D)$:
    ancestral sampling (arXiv 2010.02502, Eq. 16; 2011.13456, Appendix F).
    """
    fresh = eta**2 * (1 - (there / here) ** 2)
    down, up = there * jnp.sqrt(1 - fresh), there * jnp.sqrt(fresh)
    return ddim_step(y, denoised, here, down) + up * jr.normal(key, y.shape, y.dtype)


def reverse_diffusion_step(
    y: Float[Array, "*shape"],
    denoised: Float[Array, "*shape"],
    here: Scalar,
    there: Scalar,
    *,
    key: Key,
) -> Float[Array, "*shape"]:
    r"""The reverse-time SDE discretized as its forward one, in the variance-exploding form.

    Fresh noise is the forward step's, $\sqrt{\rho_{here}^2 - \rho_{there}^2}$; a step to ratio 0 adds none
    (arXiv 2011.13456, Appendix E).
    """
    up = jnp.where(there > 0, jnp.sqrt(here**2 - there**2), 0)
    return ddim_step(y, denoised, here, there**2 / here) + up * jr.normal(key, y.shape, y.dtype)


def descend(
    step: Step,
    model: AbstractModel,
    noise: Float[Array, "*shape"],
    options: DescentOptions,
    *,
    steps: int | Int[Array, ""],
    memory: Any = (),
) -> Float[Array, "*shape"]:
    """Take `steps` steps down the grid that `options` describe; the clean sample they arrive at.

    **Arguments:**

    - `step`: one step of the solver; see `Step`. With `options.to_zero` the last has `there = 0`.
    - `noise`: a draw of the process's prior.
    - `steps`: may be traced. A Python number makes the loop a scan, which can be differentiated in reverse.
    - `memory`: the memory that the first step is given; every step returns one of the same shape.
    """
    process = model.process
    dtype = sum_dtype(noise.dtype)
    intervals = jnp.maximum(jnp.asarray(steps - int(options.to_zero), dtype), 1)

    def ratio(i: Int[Array, ""]) -> Scalar:
        on_grid = ratio_on_grid(
            model.parameterization,
            i.astype(dtype) / intervals,
            grid=options.grid,
            ratio_min=options.ratio_min,
        )
        return jnp.where(i == steps, 0, on_grid) if options.to_zero else on_grid

    def body(i: Int[Array, ""], state: tuple[Array, Any]) -> tuple[Array, Any]:
        return step(i, *state, ratio(i), ratio(i + 1))

    # The first ratio as the grid has it, whose rounding would otherwise spoil y / ratio.
    first = ratio(jnp.zeros((), jnp.int32))
    start = noise * (first / process.sigma(process.t_max.astype(dtype)))
    y, _ = jax.lax.fori_loop(0, steps, body, (start, memory))
    return y
