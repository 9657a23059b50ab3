"""dsCD: sCM's consistency distillation with a difference quotient in place of the network's derivative."""

from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import EulerianTerms, LogWeight, arrived, bound, network_gain, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.sampling import angle_of
from scmkit.types import Key
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._pair import on_grid
from scmkit_plugins.methods._tangent import BoundOptions, told, unbounded
from scmkit_plugins.methods.scd import TeacherOptions, build_tangent, conditions, taught_by


@dataclass(frozen=True)
class Options(TeacherOptions, BoundOptions):
    """Options of discrete sCD."""

    points: Annotated[int, Ge(3), Le(FINEST)] = 1024
    """Points of the grid of noise levels, the lowest of which is the data."""


def difference(
    model: Model,
    here: Point,
    there: Point,
    dx: Float[Array, "*shape"],
    *,
    key: Key | None = None,
) -> EulerianTerms:
    r"""`F` at a point, and the terms of sCM's tangent by the difference to an earlier point of its path.

    $$whole = \cos\theta_t\, \frac{f(x_t, t) - f(x_r, r)}{\sin(\theta_t - \theta_r)}, \qquad
      stable = \cos\theta_t \cos\theta_r\, (\dot x - \sigma_d F)$$

    in TrigFlow's coordinates, for every process. `dx` is the velocity at the first point.
    """
    param, t = model.parameterization, here.t
    angle, lower = angle_of(param, t), angle_of(param, there.t)
    F = model.raw(here.x_t, t, here.cond, key=key)
    F_ = jax.lax.stop_gradient(F)
    change = param.denoise(F_, here.x_t, t) - arrived(model, there, key=key)
    whole = jnp.cos(angle) * change / jnp.sin(angle - lower)
    turned = param.weight(t) * jnp.cos(angle) * jnp.cos(lower) / param.process.alpha(t)
    stable = turned * (dx - param.velocity(F_, here.x_t, t))
    return EulerianTerms(F, *jax.lax.stop_gradient((stable, whole)))


class DiscreteLoss(AbstractLoss):
    r"""sCM's objective (see `scd`) with $df/d\theta$ replaced by $\Delta$ over one DDIM step of the teacher.

    $$\Delta = -\cos\theta_r (\sigma_d F_t - \dot x) - w \sin\theta_r \Big(x_t
        + \sigma_d \frac{\cos(\theta_t - \theta_r) F_t - F_r}{\sin(\theta_t - \theta_r)}\Big)$$

    which at the end of the warmup $w$ is the difference quotient of `f` (arXiv 2410.11081, Appendix E). Times
    are the proposal's, each moved to the nearest point of Karras's grid, $r$ the point below.
    """

    log_weight: LogWeight
    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        o, process, param = self.options, model.process, model.parameterization
        n = o.points - 1
        ratio = process.ratio(scene.proposal.sample(process, key=k_time))
        low, high = (r ** (1 / 7) for r in (2e-3, process.ratio_max))
        i = jnp.clip(jnp.round(n * (ratio ** (1 / 7) - low) / (high - low)), 1, n)
        above, below = on_grid(param, i, n), jnp.where(i > 1, on_grid(param, i - 1, n), 0)
        sample = told(sample, o.guidance_range, key=key)
        here = noised(process, sample, process.time_at(above), key=k_noise)
        there = scene.tangent.advance(here, process.time_at(below))
        F, stable, whole = difference(model, here, there, scene.tangent(here), key=k_dropout)
        w = jnp.minimum(1.0, (scene.step + 1) / max(o.warmup_steps, 1)).astype(F.dtype)
        g = bound((1 - w) * stable + w * whole, o.normalize, o.constant)
        moved = network_gain(param, here.t) * (F - jax.lax.stop_gradient(F))
        error = jnp.mean((moved - g) ** 2)
        log_weight = self.log_weight(param.coefficients(here.t).noise)
        rate = jnp.sqrt(jnp.mean(whole**2)) / jnp.cos(angle_of(param, here.t))
        return LossOutput(jnp.exp(log_weight) * error - log_weight, {"df_dt": rate}, above)


def build_loss(config: Options, context: Context, *, key: Key) -> DiscreteLoss:
    steps = min(config.warmup_steps, context.train.steps)
    return DiscreteLoss(LogWeight(context.embedding), replace(config, warmup_steps=steps))


plugin = Plugin(
    name="dscd",
    summary="sCD by difference quotients: no forward mode (arXiv 2410.11081, Appendix E)",
    provides={Slot.tangent: build_tangent, Slot.loss: build_loss},
    config=Options,
    differentiates=True,
    normalizes=unbounded("dscd"),
    conditions=conditions,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "consistency"},
    settings={"log-normal.mean": -1.0, "log-normal.std": 1.4, "train.lr": 1e-4},
    makes="consistency",
    starts_from="teacher",
    taught_by=taught_by,
)
