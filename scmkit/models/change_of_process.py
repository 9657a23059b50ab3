"""A model's velocity under another noise process, and in TrigFlow's coordinates."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import UNCONDITIONED, AbstractModel, AbstractNoiseProcess, Conditioning
from scmkit.types import Scalar, as_time


def velocity_under(
    process: AbstractNoiseProcess,
    model: AbstractModel,
    x_t: Float[Array, "*shape"],
    t: Scalar | float,
    cond: Conditioning = UNCONDITIONED,
) -> Float[Array, "*shape"]:
    r"""The PF-ODE velocity of `model` along `process`, whatever process it was trained under.

    Both processes are one path seen at another time $\tau(t)$, where the ratios $\sigma/\alpha$
    agree, and at another scale $k(t) = \alpha(t) / \alpha_{model}(\tau)$:

    $$x_t = k\, y_\tau, \qquad \frac{dx_t}{dt} = k'(t)\, y_\tau + k\, \tau'(t)\, v_{model}(y_\tau, \tau)$$

    No quantity here diverges as `t -> 0` (arXiv 2410.11081, Appendix B).
    """
    t = as_time(t)
    if eqx.tree_equal(process, model.process) is True:
        return model.velocity(x_t, t, cond)

    def change(t: Scalar) -> tuple[Scalar, Scalar]:
        tau = model.process.time_at(process.ratio(t))
        return tau, process.alpha(t) / model.process.alpha(tau)

    return _after(change, model, x_t, t, cond)


def angular_velocity(
    model: AbstractModel,
    x: Float[Array, "*shape"],
    angle: Scalar | float,
    cond: Conditioning = UNCONDITIONED,
) -> Float[Array, "*shape"]:
    r"""$dx/d\theta$ of `model`'s PF-ODE in TrigFlow's coordinates, whatever its process.

    $$x = \cos\theta\, x_0 + \sin\theta\, \sigma_d\, \varepsilon, \qquad
      \theta = \arctan(\sigma / (\alpha\, \sigma_d))$$

    Here the state keeps the data's scale from end to end, and for Gaussian data of standard deviation
    $\sigma_d$ stands still: the coordinates in which an ODE solver has least to do
    (arXiv 2410.11081, Section 3).
    """

    def change(angle: Scalar) -> tuple[Scalar, Scalar]:
        tau = model.process.time_at(model.parameterization.sigma_data * jnp.tan(angle))
        return tau, jnp.cos(angle) / model.process.alpha(tau)

    return _after(change, model, x, as_time(angle), cond)


def _after(
    change: Callable[[Scalar], tuple[Scalar, Scalar]],
    model: AbstractModel,
    x: Float[Array, "*shape"],
    t: Scalar,
    cond: Conditioning,
) -> Float[Array, "*shape"]:
    """The velocity after the change of time and scale `t -> (tau, k)`."""
    (tau, scale), (d_tau, d_scale) = jax.jvp(change, (t,), (jnp.ones_like(t),))
    y = x / scale
    return d_scale * y + scale * d_tau * model.velocity(y, tau, cond)
