"""A model's velocity under another noise process."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNoiseProcess, Conditioning
from scmkit.model import AbstractModel
from scmkit.types import Scalar


def velocity_under(
    process: AbstractNoiseProcess,
    model: AbstractModel,
    x_t: Float[Array, "*shape"],
    t: Scalar,
    cond: Conditioning | None = None,
) -> Float[Array, "*shape"]:
    r"""The PF-ODE velocity of `model` along `process`, whatever process it was trained under.

    Both processes are one path seen at another time $\tau(t)$, where the ratios $\sigma/\alpha$
    agree, and at another scale $k(t) = \alpha(t) / \alpha_{model}(\tau)$:

    $$x_t = k\, y_\tau, \qquad \frac{dx_t}{dt} = k'(t)\, y_\tau + k\, \tau'(t)\, v_{model}(y_\tau, \tau)$$

    No quantity here diverges as `t -> 0` (arXiv 2410.11081, Appendix B).
    """
    if eqx.tree_equal(process, model.process) is True:
        return model.velocity(x_t, t, cond)

    def change(t: Scalar) -> tuple[Scalar, Scalar]:
        tau = model.process.time_at(process.ratio(t))
        return tau, process.alpha(t) / model.process.alpha(tau)

    (tau, scale), (d_tau, d_scale) = jax.jvp(change, (t,), (jnp.ones_like(t),))
    y = x_t / scale
    return d_scale * y + scale * d_tau * model.velocity(y, tau, cond)
