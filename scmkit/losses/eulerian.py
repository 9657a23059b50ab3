r"""The Eulerian kernel: how the end of a jump moves while its start goes along the path.

$$\frac{d}{dt} G(x_t, t, s) = a\, \dot x + a'\, x_t + b'\, F + b\, \frac{dF}{dt}, \qquad G = a\, x_t + b\, F$$

is zero for an exact flow map. With `s` at the data it is the tangent $df/dt$ of sCM, else that of MeanFlow,
AYF and segmented sCM.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractModel, AbstractParameterization, Point
from scmkit.losses.derivatives import Derivative, derivative_along
from scmkit.types import Key, Scalar


class EulerianTerms(NamedTuple):
    """The output `F` with its gradient, and two terms without: `whole` is $w\\, dG/dt$, of which `stable` is
    the part that the network's derivative does not enter."""

    F: Float[Array, "*shape"]
    stable: Float[Array, "*shape"]
    whole: Float[Array, "*shape"]


def eulerian(
    model: AbstractModel,
    point: Point,
    dx: Float[Array, "*shape"],
    s: Scalar | None = None,
    *,
    weight: Scalar,
    along: Float[Array, "*shape"] | None = None,
    derivative: Derivative = "jvp",
    key: Key | None = None,
) -> EulerianTerms:
    r"""`F` at a point, and the stable part and the whole of $w\, dG(x_t, t, s)/dt$, without gradient.

    $$stable = w\, \frac{\alpha_t \alpha_s + \tilde\sigma_t \tilde\sigma_s}{\alpha_t^2 + \tilde\sigma_t^2}\,
        (\dot x - v(F)), \qquad \tilde\sigma = \sigma / \sigma_d$$

    In TrigFlow's coordinates it is $\cos(\theta_t - \theta_s)\,(\dot x - \sigma_d F)$ for every process, what
    sCM's warmup leaves in from the start (arXiv 2410.11081, Algorithm 1). It is zero for a model that equals
    the teacher whose velocity is $\dot x$.

    **Arguments:**

    - `dx`: the velocity $\dot x$ at the point.
    - `s`: the time where the jump ends; by default the data's.
    - `weight`: $w$, pushed into the tangents of the derivative.
    - `along`: the velocity along which the network is differentiated, where it is another than `dx`.
    - `derivative`: how (see `derivative_along`).
    - `key`: for dropout, of which there is one mask.
    """
    param, t = model.parameterization, point.t
    end = jnp.zeros_like(t) if s is None else s
    (a, b), (da, db) = jax.jvp(lambda t: param.jump(t, end), (t,), (jnp.ones_like(t),))

    def raw(x: Float[Array, "*shape"], t: Scalar) -> Float[Array, "*shape"]:
        return model.raw(x, t, point.cond, s=s, key=key)

    direction = dx if along is None else along
    gap = 1e-3 * jnp.minimum(t, param.process.angular_weight(param.sigma_data, t))
    F, w_b_dF = derivative_along(raw, point.x_t, t, direction, weight * b, kind=derivative, gap=gap)
    F_, w_b_dF = jax.lax.stop_gradient((F, w_b_dF))
    turned = _turned(param, t, end)
    stable = weight * turned * (dx - param.velocity(F_, point.x_t, t))
    whole = weight * (a * dx + da * point.x_t + db * F_) + w_b_dF
    return EulerianTerms(F, *jax.lax.stop_gradient((stable, whole)))


def network_gain(param: AbstractParameterization, t: Scalar) -> Scalar:
    r"""How far TrigFlow's network moves where this parameterization's moves by one: 1 for TrigFlow.

    $$-\frac{c_{out}}{\sigma_d \sin\theta}, \qquad \theta = \arctan(\sigma / (\alpha\, \sigma_d))$$

    A residual in `F` times this gain has TrigFlow's gradient, whatever the process.
    """
    sigma = param.process.sigma(t) / param.sigma_data
    scale = jnp.sqrt(param.process.alpha(t) ** 2 + sigma**2)
    return -param.coefficients(t).out * scale / (param.sigma_data * sigma)


def velocity_gain(param: AbstractParameterization, t: Scalar) -> Scalar:
    r"""$\partial v / \partial F$: how far the velocity moves where `F` does by one; it is affine in `F`."""
    one, zero = jnp.ones_like(t), jnp.zeros_like(t)
    return param.velocity(one, zero, t) - param.velocity(zero, zero, t)


def _turned(param: AbstractParameterization, t: Scalar, s: Scalar) -> Scalar:
    """How much of a change of velocity at `t` arrives at `s`."""
    process, sigma_data = param.process, param.sigma_data
    alpha, sigma = process.alpha(t), process.sigma(t) / sigma_data
    dot = alpha * process.alpha(s) + sigma * process.sigma(s) / sigma_data
    return dot / (alpha**2 + sigma**2)
