"""The continuous-time consistency objective, shared by sCT and sCD."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt
from jaxtyping import Array, Float, Int

from scmkit.consistency import tangent_terms, trigflow_gain
from scmkit.interfaces import (
    AbstractLoss,
    AbstractProposal,
    AbstractTangentEstimator,
    Conditioning,
    LossOutput,
)
from scmkit.models.model import Model
from scmkit.plugin import Context
from scmkit.types import Key
from scmkit_plugins.methods._log_weight import LogWeight

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


class ConsistencyLoss(AbstractLoss):
    r"""Algorithm 1 of the sCM paper, for any process and parameterization.

    $$g = stable + r\,(w \tfrac{df}{dt} - stable), \qquad
      \frac{e^{w_\phi(t)}}{D}\, \big\|b\,(F - F^-) - \hat g\big\|^2 - w_\phi(t)$$

    with `r` the tangent warmup, $\hat g$ the bounded tangent (see `bound`) and $F^-$ the output without
    gradient. `b` is what TrigFlow's network moves where this one moves by one (1 for TrigFlow), so that every
    process has TrigFlow's tangent, warmup and gradient: the paper's $F - F^- - \hat g$, in which `f` moves
    against `df/dt` (arXiv 2410.11081, Algorithm 1; see `scmkit.consistency`).
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
        F, stable, whole = tangent_terms(model, x_t, dx, t, cond, key=k_dropout)
        r = jnp.minimum(1.0, (step + 1) / max(self.warmup_steps, 1))
        g = bound((1 - r) * stable + r * whole, self.normalize, self.constant)
        moved = trigflow_gain(param, t) * (F - jax.lax.stop_gradient(F))
        error = jnp.mean((moved - g) ** 2)
        w = self.log_weight(param.coefficients(t).noise)
        rate = jnp.sqrt(jnp.mean(whole**2)) / param.weight(t)
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
