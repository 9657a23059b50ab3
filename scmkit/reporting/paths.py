"""Paths of the PF-ODE, and the jumps a consistency model makes from the same noise."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractSampler, Conditioning
from scmkit.model import AbstractModel
from scmkit.sampling import angle_of, draw, solve_pf_ode, time_at_angle

RATIO_MIN = 2e-3
"""Noise-to-signal ratio at which the paths end."""


@dataclass(frozen=True)
class Paths:
    r"""States of the PF-ODE on a grid of angles from noise to data.

    `states` are in TrigFlow's scale whatever the process, so that they stay of one size:
    $\cos\theta\, x_0 + \sin\theta\, \sigma_d \varepsilon$; `denoised` are the model's predictions there.
    """

    angle: Float[np.ndarray, " points"]
    states: Float[np.ndarray, "points n *shape"]
    denoised: Float[np.ndarray, "points n *shape"]


def pf_ode_paths(
    model: AbstractModel,
    noise: Float[Array, "n *shape"],
    cond: Conditioning | None,
    *,
    points: int,
    ratio_max: float,
) -> Paths:
    """Solve a diffusion model's PF-ODE from unit `noise`, keeping `points` states (Heun's method).

    The start is the noise-to-signal ratio `ratio_max`, or the largest of the model's own process if that is
    smaller.
    """
    process, parameterization = model.process, model.parameterization
    sigma_data = parameterization.sigma_data
    ratios = jnp.asarray([min(ratio_max, process.ratio_max), RATIO_MIN], jnp.float32)
    ends = angle_of(parameterization, jax.vmap(process.time_at)(ratios))
    times = time_at_angle(parameterization, jnp.linspace(ends[0], ends[1], points))

    @eqx.filter_jit
    def solve(model: AbstractModel, noise: Array, cond: Conditioning | None) -> tuple[Array, Array]:
        def one(eps: Array, cond: Conditioning | None) -> tuple[Array, Array]:
            start = process.sigma(times[0]) * eps
            solution = solve_pf_ode(model, start, cond, times, dense=True)
            inner = jax.vmap(solution.evaluate)(times[1:])
            states = jnp.concatenate([start[None], inner])
            denoised = jax.vmap(lambda x, t: model.denoise(x, t, cond))(states, times)
            # TrigFlow's scale: 1 / sqrt(alpha^2 + (sigma / sigma_data)^2).
            scale = jax.vmap(lambda t: jnp.hypot(process.alpha(t), process.sigma(t) / sigma_data))
            ones = (-1, *[1] * eps.ndim)
            return states / scale(times).reshape(ones), denoised

        return jax.vmap(one, out_axes=1)(noise, cond)

    states, denoised = solve(model, noise, cond)
    angle = angle_of(parameterization, times)
    return Paths(np.asarray(angle), np.asarray(states), np.asarray(denoised))


def jump(
    model: AbstractModel,
    sampler: AbstractSampler,
    noise: Float[Array, "n *shape"],
    cond: Conditioning | None,
    *,
    steps: int,
    seed: int = 0,
) -> Float[np.ndarray, "n *shape"]:
    """Where a sampler takes unit `noise` in `steps` steps, in the model's units."""
    start = model.process.sigma(model.process.t_max) * noise
    return np.asarray(draw(model, sampler, start, cond, steps=steps, key=jr.key(seed)).x)
