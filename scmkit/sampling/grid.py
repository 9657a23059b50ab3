"""Grids of noise levels that mean the same for every noise process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import jax.numpy as jnp
from annotated_types import Ge, Gt, MinLen
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractParameterization
from scmkit.types import Scalar

Grid = Literal["angle", "karras", "log-snr", "rectified", "time", "quadratic"]
"""The quantity in which the steps of a grid are equal."""


StepCounts = Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
"""Numbers of sampling steps, as the option of a sampler."""


@dataclass(frozen=True)
class GridOptions:
    """Where the steps of a sampler lie."""

    grid: Grid = "angle"
    """Steps are equal in TrigFlow's angle, Karras's rho = 7, log-SNR, rectified flow's time, the
    process's own or its root."""
    ratio_min: Annotated[float, Gt(0)] = 2e-3
    """Noise-to-signal ratio at which the grid ends."""


@dataclass(frozen=True)
class DescentOptions(GridOptions):
    """The options that samplers on `descend` share; their own options extend them."""

    to_zero: bool = True
    """Whether the last step goes on from there to ratio 0, which takes one step from the grid."""


def angle_of(
    parameterization: AbstractParameterization, t: Float[Array, "*grid"]
) -> Float[Array, "*grid"]:
    r"""TrigFlow's time at the process's time `t`: $\arctan(\sigma / (\alpha\,\sigma_d))$, radians."""
    process = parameterization.process
    alpha, sigma = (jnp.vectorize(f)(t) for f in (process.alpha, process.sigma))
    return jnp.arctan2(sigma, alpha * parameterization.sigma_data)


def time_at_angle(
    parameterization: AbstractParameterization, angle: Float[Array, "*grid"]
) -> Float[Array, "*grid"]:
    r"""The process's time where $\sigma/\alpha = \sigma_d \tan(angle)$."""
    ratio = parameterization.sigma_data * jnp.tan(angle)
    return jnp.vectorize(parameterization.process.time_at)(ratio)


def ratio_on_grid(
    parameterization: AbstractParameterization,
    u: Scalar,
    *,
    grid: Grid = "angle",
    ratio_min: float = 2e-3,
) -> Scalar:
    r"""The noise-to-signal ratio a part $u \in [0, 1]$ of the way down, in the dtype of `u`.

    $$\rho(u) = g^{-1}\big(g(\rho_{max}) + u\,(g(\rho_{min}) - g(\rho_{max}))\big)$$

    | `grid` | $g(\rho)$ | from |
    | --- | --- | --- |
    | `angle` | $\arctan(\rho/\sigma_d)$ | arXiv 2410.11081 |
    | `karras` | $\rho^{1/7}$ | arXiv 2206.00364, Eq. 5 |
    | `log-snr` | $\log\rho$ | arXiv 2206.00927, Section 3.3 |
    | `rectified` | $\rho / (1 + \rho)$, rectified flow's time | arXiv 2209.03003 |
    | `time` | $t(\rho)$, the process's time | |
    | `quadratic` | $\sqrt{t(\rho)}$ | arXiv 2010.02502, Appendix D.2 |

    Which is best depends on the solver (`docs/samplers.md`): the angle for DDIM, log-SNR for the DPM-Solvers.
    """
    process = parameterization.process
    scales: dict[Grid, tuple[Callable[[Scalar], Scalar], Callable[[Scalar], Scalar]]] = {
        "angle": (
            lambda r: jnp.arctan(r / parameterization.sigma_data),
            lambda g: parameterization.sigma_data * jnp.tan(g),
        ),
        "karras": (lambda r: r ** (1 / 7), lambda g: g**7),
        "log-snr": (jnp.log, jnp.exp),
        "rectified": (lambda r: r / (1 + r), lambda g: g / (1 - g)),
        "time": (process.time_at, process.ratio),
        "quadratic": (lambda r: jnp.sqrt(process.time_at(r)), lambda g: process.ratio(g**2)),
    }
    scale, inverse = scales[grid]
    first = scale(process.ratio(process.t_max.astype(u.dtype)))
    last = scale(jnp.asarray(ratio_min, u.dtype))
    return inverse(first + u * (last - first))


def time_grid(
    parameterization: AbstractParameterization,
    steps: int,
    *,
    grid: Grid = "angle",
    ratio_min: float = 2e-3,
) -> Float[Array, " points"]:
    """`steps + 1` times of the process from `t_max` down to the ratio `ratio_min`."""

    def time(u: Scalar) -> Scalar:
        ratio = ratio_on_grid(parameterization, u, grid=grid, ratio_min=ratio_min)
        return parameterization.process.time_at(ratio)

    return jnp.vectorize(time)(jnp.linspace(0, 1, steps + 1))
