"""The continuous-time consistency objective, shared by sCT and sCD."""

from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt

from scmkit.interfaces import AbstractLoss, Conditioning, LossOutput, Sample, Scene
from scmkit.losses import (
    Derivative,
    LogWeight,
    Normalization,
    bound,
    eulerian,
    network_gain,
    noised,
)
from scmkit.models.model import Model
from scmkit.plugin import Context
from scmkit.types import Key


@dataclass(frozen=True)
class BoundOptions:
    """How a tangent is phased in and bounded."""

    normalize: Normalization = "l2"
    """How the tangent is bounded: divided by its L2 or RMS norm plus `constant`, clipped, or not."""
    constant: Annotated[float, Gt(0)] = 0.1
    """The paper's c: added to the norm, or the bound when clipping (1 in the paper)."""
    warmup_steps: Annotated[int, Ge(0)] = 10_000
    """Steps over which the unstable term of the tangent is phased in; at most the run's length."""


@dataclass(frozen=True)
class ConsistencyOptions(BoundOptions):
    """Options of the continuous-time consistency objective."""

    derivative: Derivative = "jvp"
    """How the network is differentiated along the path: exactly, or wholly or partly by differences."""


def told(sample: Sample, guidance_range: tuple[float, ...], *, key: Key) -> Sample:
    """The sample with a guidance strength drawn from a range, for teacher and student; itself without one."""
    if not guidance_range:
        return sample
    low, high = guidance_range
    strength = jr.uniform(jr.fold_in(key, 3), minval=low, maxval=high)
    return Sample(sample.x0, Conditioning(sample.cond.label, {"guidance": strength}), sample.eps)


class ConsistencyLoss(AbstractLoss):
    r"""Algorithm 1 of the sCM paper, for any process and parameterization.

    $$g = stable + r\,(w \tfrac{df}{dt} - stable), \qquad
      \frac{e^{w_\phi(t)}}{D}\, \big\|b\,(F - F^-) - \hat g\big\|^2 - w_\phi(t)$$

    with `r` the tangent warmup, $\hat g$ the bounded tangent (see `bound`) and $F^-$ the output without
    gradient. `b` is what TrigFlow's network moves where this one moves by one (1 for TrigFlow), so that every
    process has TrigFlow's tangent, warmup and gradient: the paper's $F - F^- - \hat g$, in which `f` moves
    against `df/dt` (arXiv 2410.11081, Algorithm 1).
    """

    log_weight: LogWeight
    options: ConsistencyOptions
    guidance_range: tuple[float, ...] = ()

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        sample = told(sample, self.guidance_range, key=key)
        o, process, param = self.options, model.process, model.parameterization
        t = scene.proposal.sample(process, key=k_time)
        point = noised(process, sample, t, key=k_noise)
        weight = param.weight(t)
        F, stable, whole = eulerian(
            model,
            point,
            jax.lax.stop_gradient(scene.tangent(point)),
            weight=weight,
            derivative=o.derivative,
            key=k_dropout,
        )
        r = jnp.minimum(1.0, (scene.step + 1) / max(o.warmup_steps, 1)).astype(F.dtype)
        g = bound((1 - r) * stable + r * whole, o.normalize, o.constant)
        moved = network_gain(param, t) * (F - jax.lax.stop_gradient(F))
        error = jnp.mean((moved - g) ** 2)
        w = self.log_weight(param.coefficients(t).noise)
        rate = jnp.sqrt(jnp.mean(whole**2)) / weight
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
        log_weight=LogWeight(context.embedding),
        options=replace(config, warmup_steps=min(config.warmup_steps, context.train.steps)),
        guidance_range=guidance_range,
    )
