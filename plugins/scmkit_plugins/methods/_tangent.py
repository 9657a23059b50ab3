"""The continuous-time consistency objective, shared by sCT, sCD and segmented sCD."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt

from scmkit.interfaces import (
    AbstractLoss,
    AbstractParameterization,
    Conditioning,
    LossOutput,
    Sample,
    Scene,
)
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
from scmkit.sampling import angle_of, time_at_angle
from scmkit.types import Key, Scalar


@dataclass(frozen=True)
class BoundOptions:
    """How a tangent is phased in and bounded."""

    normalize: Normalization = "l2"
    """How the tangent is bounded: divided by its L2 or RMS norm plus `constant`, clipped, or not."""
    constant: Annotated[float, Gt(0)] = 0.1
    """The paper's c: added to the norm, or the bound when clipping (1 in the paper)."""
    warmup_steps: Annotated[int, Ge(0)] = 10_000
    """Steps over which the unstable term of the tangent is phased in; at most the run's length."""


def unbounded(name: str) -> Callable[[BoundOptions], str]:
    """What a plugin says that `normalizes` its tangents where its options say so."""
    return lambda config: "" if config.normalize == "none" else f"--set {name}.normalize=none"


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

    Of several `segments`, equal in TrigFlow's angle, each has a consistency function of its own, which leads
    to the segment's start $t_k$: $f$ becomes $G(x_t, t, t_k)$, and `w` is $\cos(t - t_k)$ where it was
    $\cos t$.
    """

    log_weight: LogWeight
    options: ConsistencyOptions
    guidance_range: tuple[float, ...] = ()
    segments: int = 1

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        sample = told(sample, self.guidance_range, key=key)
        error, rate, t = consistency_error(
            model, scene, sample, self.options, segments=self.segments, key=key
        )
        w = self.log_weight(model.parameterization.coefficients(t).noise)
        return LossOutput(jnp.exp(w) * error - w, {"df_dt": rate}, model.process.ratio(t))


def consistency_error(
    model: Model,
    scene: Scene,
    sample: Sample,
    o: ConsistencyOptions,
    *,
    segments: int = 1,
    key: Key,
) -> tuple[Scalar, Scalar, Scalar]:
    r"""$\tfrac1D \|b\,(F - F^-) - \hat g\|^2$ at a time of the proposal, the size of $df/dt$,
    and the time."""
    k_time, k_noise, k_dropout = jr.split(key, 3)
    process, param = model.process, model.parameterization
    t = scene.proposal.sample(process, key=k_time)
    point = noised(process, sample, t, key=k_noise)
    s, turn = segment_of(param, t, segments)
    weight = param.weight(t) * turn
    F, stable, whole = eulerian(
        model,
        point,
        jax.lax.stop_gradient(scene.tangent(point)),
        s,
        weight=weight,
        derivative=o.derivative,
        key=k_dropout,
    )
    r = jnp.minimum(1.0, (scene.step + 1) / max(o.warmup_steps, 1)).astype(F.dtype)
    g = bound((1 - r) * stable + r * whole, o.normalize, o.constant)
    moved = network_gain(param, t) * (F - jax.lax.stop_gradient(F))
    return jnp.mean((moved - g) ** 2), jnp.sqrt(jnp.mean(whole**2)) / weight, t


def segment_of(param: AbstractParameterization, t: Scalar, segments: int) -> tuple[Scalar, Scalar]:
    r"""The start `s` of the segment that `t` lies in, of so many, and what the weight of $df/dt$ is to be
    multiplied by: $\frac{\cos(\theta_t - \theta_s) \cos\theta_s}{\cos\theta_t\, \alpha_s}$, which is 1
    where there is one.

    The weight of $dG/d\theta$ in TrigFlow's coordinates is then $\cos(\theta_t - \theta_s)$, whatever the
    process.
    """
    angle, most = angle_of(param, t), jnp.arctan(param.process.ratio_max / param.sigma_data)
    k = jnp.clip(jnp.ceil(angle / most * segments) - 1, 0, segments - 1)
    start = most * k / segments
    s = time_at_angle(param, start)
    turn = jnp.cos(angle - start) * jnp.cos(start) / (jnp.cos(angle) * param.process.alpha(s))
    return s, turn


def build_loss(
    config: ConsistencyOptions,
    context: Context,
    *,
    guidance_range: tuple[float, ...] = (),
    segments: int = 1,
    key: Key,
) -> ConsistencyLoss:
    """The loss slot's factory, for `sct`, `scd` and `ms-scd` alike.

    With a `guidance_range` each sample's guidance strength is drawn from it, for tangent and model.
    """
    return ConsistencyLoss(
        log_weight=LogWeight(context.embedding),
        options=replace(config, warmup_steps=min(config.warmup_steps, context.train.steps)),
        guidance_range=guidance_range,
        segments=segments,
    )
