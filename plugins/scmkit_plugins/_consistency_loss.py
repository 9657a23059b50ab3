"""The continuous-time consistency objective, shared by sCT and sCD."""

from dataclasses import dataclass
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt
from jaxtyping import Array, Float, Int

from scmkit.interfaces import (
    AbstractLoss,
    AbstractProposal,
    AbstractTangentEstimator,
    Conditioning,
    LossOutput,
)
from scmkit.model import Model
from scmkit.plugin import Context
from scmkit.types import Key, Scalar
from scmkit_plugins._log_weight import LogWeight

Normalization = Literal["l2", "rms", "clip", "none"]


@dataclass(frozen=True)
class ConsistencyOptions:
    """Options of the continuous-time consistency objective."""

    normalize: Normalization = "l2"
    """How the tangent is bounded: divided by its L2 or RMS norm plus `constant`, clipped, or not."""
    constant: Annotated[float, Gt(0)] = 0.1
    """The paper's c: added to the norm, or the bound when clipping (1 in the paper)."""
    warmup_steps: Annotated[int, Ge(0)] = 10_000
    """Steps over which the unstable term of the tangent is phased in; at most the run's length."""


def bound(
    g: Float[Array, "*shape"], normalize: Normalization, constant: float
) -> Float[Array, "*shape"]:
    """`g / (|g| + c)` in the L2 or RMS norm, or `g` clipped to `[-c, c]`, or `g` itself.

    arXiv 2410.11081, Section 4.2 (tangent normalization, tangent clipping).
    """
    if normalize == "none":
        return g
    if normalize == "clip":
        return jnp.clip(g, -constant, constant)
    norm = jnp.sqrt(jnp.sum(g**2) if normalize == "l2" else jnp.mean(g**2))
    return g / (norm + constant)


def tangent_terms(
    model: Model,
    x_t: Float[Array, "*shape"],
    dx: Float[Array, "*shape"],
    t: Scalar,
    cond: Conditioning | None,
    *,
    key: Key | None,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""The network's output `F`, and the stable and unstable parts of $w\, df/dt$ without gradient.

    $$w \frac{df}{dt} = \underbrace{w\,(c_{skip} \dot x + c_{out}' F)}_{stable}
        + \underbrace{w\, c_{skip}'\, x + w\, c_{out} \tfrac{dF}{dt}}_{unstable}$$

    The factor $w\, c_{out}$ is pushed into the tangents of the JVP, so that nothing overflows where
    `dF/dt` is large (arXiv 2410.11081, Section 5.1, for $f = c_{skip} x + c_{out} F$ in general). One
    forward pass yields both: `F` is the JVP's primal output, and dropout masks agree by construction.
    """
    c, dc = jax.jvp(model.parameterization.coefficients, (t,), (jnp.ones_like(t),))
    w = model.parameterization.weight(t)

    def raw(x: Float[Array, "*shape"], t: Scalar) -> Float[Array, "*shape"]:
        return model.raw(x, t, cond, key=key)

    F, w_out_dF = eqx.filter_jvp(raw, (x_t, t), (w * c.out * dx, w * c.out))
    F_, w_out_dF = jax.lax.stop_gradient((F, w_out_dF))
    return F, w * (c.skip * dx + dc.out * F_), w * dc.skip * x_t + w_out_dF


class ConsistencyLoss(AbstractLoss):
    r"""Algorithm 1 of the sCM paper, for any process and parameterization.

    $$g = stable + r\, unstable, \qquad
      \frac{e^{w_\phi(t)}}{D}\, \big\|F - F^- + \mathrm{sign}(c_{out})\, \hat g\big\|^2 - w_\phi(t)$$

    with `r` the tangent warmup, $\hat g$ the bounded tangent (see `bound`) and $F^-$ the output without
    gradient. `F` moves against the sign of $c_{out}$, so that `f` moves against `df/dt`; for TrigFlow
    the residual is the paper's $F - F^- - \hat g$ (arXiv 2410.11081, Algorithm 1).
    """

    proposal: AbstractProposal
    log_weight: LogWeight
    normalize: Normalization
    constant: float
    warmup_steps: int
    guidance_range: tuple[float, ...] = ()

    def __call__(
        self,
        model: Model,
        tangent: AbstractTangentEstimator,
        x0: Float[Array, "*shape"],
        cond: Conditioning | None,
        *,
        step: Int[Array, ""],
        key: Key,
    ) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        if self.guidance_range:
            low, high = self.guidance_range
            strength = jr.uniform(jr.fold_in(key, 3), minval=low, maxval=high)
            cond = Conditioning(None if cond is None else cond.label, strength)
        process, param = model.process, model.parameterization
        t = self.proposal.sample(process, key=k_time)
        eps = jr.normal(k_noise, x0.shape, x0.dtype)
        x_t = process.perturb(x0, eps, t)
        dx = jax.lax.stop_gradient(tangent(x0, eps, x_t, t, cond))
        F, stable, unstable = tangent_terms(model, x_t, dx, t, cond, key=k_dropout)
        r = jnp.minimum(1.0, (step + 1) / max(self.warmup_steps, 1))
        g = bound(stable + r * unstable, self.normalize, self.constant)
        c = param.coefficients(t)
        error = jnp.mean((F - jax.lax.stop_gradient(F) + jnp.sign(c.out) * g) ** 2)
        w = self.log_weight(c.noise)
        rate = jnp.sqrt(jnp.mean((stable + unstable) ** 2)) / param.weight(t)
        return LossOutput(jnp.exp(w) * error - w, {"df_dt": rate}, process.ratio(t))


def build_loss(
    config: ConsistencyOptions,
    context: Context,
    *,
    guidance_range: tuple[float, ...] = (),
    key: Key,
) -> ConsistencyLoss:
    """The loss slot's factory, for `sct` and `scd` alike.

    With a `guidance_range` each sample's guidance strength is drawn from it, for tangent and model.
    """
    return ConsistencyLoss(
        proposal=context.proposal,
        log_weight=LogWeight(context.embedding),
        normalize=config.normalize,
        constant=config.constant,
        warmup_steps=min(config.warmup_steps, context.train.steps),
        guidance_range=guidance_range,
    )
