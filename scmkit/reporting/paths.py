"""Paths of the PF-ODE from noise to data."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractModel, Conditioning
from scmkit.sampling import angle_of, solve_pf_ode, time_at_angle

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
    cond: Conditioning,
    *,
    points: int,
    ratio_max: float,
) -> Paths:
    """Solve a diffusion model's PF-ODE from unit `noise`, keeping `points` states (Heun's method).

    The start is the noise-to-signal ratio `ratio_max`, or the largest of the model's own process if that is
    smaller.
    """
    process, parameterization = model.process, model.parameterization
    ratios = jnp.asarray([min(ratio_max, process.ratio_max), RATIO_MIN], jnp.float32)
    ends = angle_of(parameterization, jax.vmap(process.time_at)(ratios))
    angle = jnp.linspace(ends[0], ends[1], points)
    states, denoised = _solve(model, noise, cond, time_at_angle(parameterization, angle))
    return Paths(np.asarray(angle), np.asarray(states), np.asarray(denoised))


@eqx.filter_jit
def _solve(
    model: AbstractModel,
    noise: Float[Array, "n *shape"],
    cond: Conditioning,
    times: Float[Array, " points"],
) -> tuple[Float[Array, "points n *shape"], Float[Array, "points n *shape"]]:
    process, sigma_data = model.process, model.parameterization.sigma_data

    def one(eps: Array, cond: Conditioning) -> tuple[Array, Array]:
        start = process.sigma(times[0]) * eps
        solution = solve_pf_ode(model, start, cond, times, dense=True)
        inner = jax.vmap(solution.evaluate)(times[1:])
        states = jnp.concatenate([start[None], inner])
        denoised = jax.vmap(lambda x, t: model.denoise(x, t, cond))(states, times)
        # TrigFlow's scale: 1 / sqrt(alpha^2 + (sigma / sigma_data)^2).
        size = jax.vmap(lambda t: jnp.hypot(process.alpha(t), process.sigma(t) / sigma_data))(times)
        return states / size.reshape(-1, *[1] * eps.ndim), denoised

    return jax.vmap(one, out_axes=1)(noise, cond)
