"""What every continuous-time consistency objective is made of, for any process and parameterization."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractParameterization, Conditioning
from scmkit.models.model import AbstractModel
from scmkit.types import Key, Scalar


def tangent_terms(
    model: AbstractModel,
    x_t: Float[Array, "*shape"],
    dx: Float[Array, "*shape"],
    t: Scalar,
    cond: Conditioning | None = None,
    *,
    key: Key | None = None,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""The network's output `F`, and without gradient the stable part of $w\, df/dt$ and all of it.

    With $\theta = \arctan(\sigma / (\alpha \sigma_d))$ and $v(F)$ the velocity that `F` stands for,

    $$stable = w\, \frac{\cos^2\theta}{\alpha}\, (\dot x - v(F)), \qquad
      w \frac{df}{dt} = w\,(c_{skip} \dot x + c_{out}' F + c_{skip}'\, x) + w\, c_{out} \tfrac{dF}{dt}$$

    For every process the difference of the two is what TrigFlow's warmup phases in,
    $-\cos\theta \sin\theta\, (x + \sigma_d\, dF/d\theta)$ at the matched state (arXiv 2410.11081, Eq. 6 and
    Section 4.1): a student that equals its teacher has no stable part. Splitting $df/dt$ in a process's own
    coordinates would tell other terms apart.

    The factor $w\, c_{out}$ is pushed into the tangents of the JVP, so that nothing overflows where
    `dF/dt` is large (arXiv 2410.11081, Section 5.1, for $f = c_{skip} x + c_{out} F$ in general). One
    forward pass yields both: `F` is the JVP's primal output, and dropout masks agree by construction.
    """
    param = model.parameterization
    c, dc = jax.jvp(param.coefficients, (t,), (jnp.ones_like(t),))
    w = param.weight(t)

    def raw(x: Float[Array, "*shape"], t: Scalar) -> Float[Array, "*shape"]:
        return model.raw(x, t, cond, key=key)

    F, w_out_dF = eqx.filter_jvp(raw, (x_t, t), (w * c.out * dx, w * c.out))
    F_, w_out_dF = jax.lax.stop_gradient((F, w_out_dF))
    whole = w * (c.skip * dx + dc.out * F_) + (w * dc.skip * x_t + w_out_dF)
    alpha, sigma = model.process.alpha(t), model.process.sigma(t) / param.sigma_data
    share = alpha / (alpha**2 + sigma**2)
    stable = w * share * (dx - param.velocity(F_, x_t, t))
    # A process may have arrays of its own that train.
    return F, *jax.lax.stop_gradient((stable, whole))


def trigflow_gain(parameterization: AbstractParameterization, t: Scalar) -> Scalar:
    r"""How far TrigFlow's network moves where this parameterization's moves by one, for the same `f`.

    $$-\frac{c_{out}}{\sigma_d \sin\theta}, \qquad \theta = \arctan(\sigma / (\alpha \sigma_d))$$

    1 for TrigFlow, -1 for EDM, $\sqrt{\rho^2 + \sigma_d^2} / (\sigma_d (1 + \rho))$ for rectified flow. A
    residual of `F` times it has TrigFlow's gradient (arXiv 2410.11081, Algorithm 1 and Appendix B).
    """
    process, sigma_data = parameterization.process, parameterization.sigma_data
    alpha, sigma = process.alpha(t), process.sigma(t) / sigma_data
    sine = sigma / jnp.sqrt(alpha**2 + sigma**2)
    return -parameterization.coefficients(t).out / (sigma_data * sine)
