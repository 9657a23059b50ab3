r"""What the discrete methods share: the consistency function at two times of one path, and Karras's grid."""

from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr

from scmkit.interfaces import (
    AbstractDistance,
    AbstractModel,
    AbstractParameterization,
    AbstractTangentEstimator,
    Point,
    Sample,
    Scene,
)
from scmkit.losses import arrived, heun, noised
from scmkit.sampling import ratio_on_grid
from scmkit.types import Key, Scalar

Solver = Literal["heun", "ddim"]
"""A step along the teacher's path: Heun's, of two evaluations and second order, or DDIM's."""


def any_interval(intervals: Scalar | int, *, key: Key) -> Scalar:
    """One of the intervals of a grid, each as likely, by its lower point."""
    return jnp.minimum(jnp.floor(jr.uniform(key) * intervals), intervals - 1)


def on_grid(
    parameterization: AbstractParameterization, i: Scalar, intervals: Scalar | int
) -> Scalar:
    r"""The noise-to-signal ratio at point $i$ of Karras's grid, ascending from 0.002 in $n$ intervals.

    $$\rho_i = \Big(0.002^{1/7} + \frac{i}{n} \big(\rho_{max}^{1/7} - 0.002^{1/7}\big)\Big)^7$$

    (arXiv 2206.00364, Eq. 5; arXiv 2303.01469, Appendix C).
    """
    return ratio_on_grid(parameterization, 1 - i / intervals, grid="karras")


def earlier(
    tangent: AbstractTangentEstimator, point: Point, r: Scalar, solver: Solver = "ddim"
) -> Point:
    """The point at time `r < t`, one step along the same path."""
    return heun(tangent, point, r) if solver == "heun" else tangent.advance(point, r)


def separation(
    distance: AbstractDistance,
    model: AbstractModel,
    target: AbstractModel,
    here: Point,
    there: Point,
    *,
    key: Key | None = None,
) -> Scalar:
    r"""$d(f(x_t, t), f^-(x_r, r))$: without gradient in the second, and with one dropout mask."""
    aim = jax.lax.stop_gradient(arrived(target, there, key=key))
    return distance(arrived(model, here, key=key), aim)


def separation_on_grid(
    distance: AbstractDistance,
    model: AbstractModel,
    target: AbstractModel,
    scene: Scene,
    sample: Sample,
    i: Scalar,
    intervals: Scalar | int,
    *,
    solver: Solver = "ddim",
    key: Key,
) -> tuple[Scalar, Scalar, Scalar]:
    """The separation over one interval of the grid, from point `i + 1` to `i`, and the ratios at the two."""
    k_noise, k_dropout = jr.split(key)
    process, param = model.process, model.parameterization
    high, low = (on_grid(param, j, intervals) for j in (i + 1, i))
    here = noised(process, sample, process.time_at(high), key=k_noise)
    there = earlier(scene.tangent, here, process.time_at(low), solver)
    return separation(distance, model, target, here, there, key=k_dropout), high, low
