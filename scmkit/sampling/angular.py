"""Adaptive integration in TrigFlow's coordinates, in which every process is the same."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from scmkit.interfaces import AbstractModel
from scmkit.sampling.pf_ode import FIRST, solver_called
from scmkit.types import Scalar


def end_angles(model: AbstractModel, ratio_min: float | Scalar) -> tuple[Scalar, Scalar]:
    """The angles at the noise-to-signal ratio `ratio_min` and where sampling starts."""
    sigma_data = model.parameterization.sigma_data
    low, high = (jnp.asarray(r, jnp.float32) for r in (ratio_min, model.process.ratio_max))
    return jnp.arctan(low / sigma_data), jnp.arctan(high / sigma_data)


def integrate(
    rates: Callable[[Scalar, Any], Any],
    state: PyTree[Array],
    first: Scalar,
    last: Scalar,
    *,
    solver: str = "Tsit5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> diffrax.Solution:
    """Integrate `d state / d angle = rates(angle, state)` by an adaptive solver of diffrax's, either way.

    `rates` are made of `angular_velocity`. The tolerances hold for the root mean square
    of each array of the state. Raises `OptionError` for an unknown solver.
    """
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda angle, state, _: rates(jnp.asarray(angle), state)),
        solver_called(solver),
        t0=first,
        t1=last,
        dt0=(last - first) / FIRST,
        y0=state,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=_largest_rms),
        max_steps=max_steps,
    )


def _largest_rms(tree: PyTree[Array]) -> Scalar:
    """The root mean square of each array, the largest: a scalar counts as much as an image."""
    return jnp.max(jnp.stack([jnp.sqrt(jnp.mean(a**2)) for a in jax.tree.leaves(tree)]))
