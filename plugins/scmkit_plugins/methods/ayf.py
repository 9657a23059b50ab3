"""Align Your Flow: a flow map distilled from a teacher, by the start of its jumps or by their end."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le

from scmkit.interfaces import AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import bound, eulerian, lagrangian, noised, velocity_gain
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods import scd
from scmkit_plugins.methods._flowmap import rectified_time
from scmkit_plugins.methods._tangent import told, unbounded


@dataclass(frozen=True)
class Options(scd.Options):
    """Options of Align Your Flow."""

    objective: Literal["eulerian", "lagrangian", "regression"] = "eulerian"
    """Whether the start of the jump moves along the teacher's path (AYF-EMD), or its end (AYF-LMD), or the
    same with the gradient through its derivative (LMD)."""
    warmup_end: Annotated[float, Ge(0), Le(1)] = 0.99
    """The weight of the unstable term of the Eulerian tangent after its warmup."""
    gap_mean: float = -0.8
    """Mean of the logit of the jump's length, in rectified flow's time."""
    gap_std: Annotated[float, Gt(0)] = 1.0
    """Standard deviation of that logit."""


class AlignYourFlowLoss(AbstractLoss):
    r"""$|F_\theta - F^- - \hat g|^2 / D$, with $\hat g$ bounded as in sCM, and one of

    $$g = \tfrac{1}{q_t} \tfrac{d}{dt} G(x_t, t, s) \quad \text{(Eulerian)}, \qquad
      g = -\tfrac{1}{q_s} \big(\partial_s G - v_{teacher}(G, s)\big) \quad \text{(Lagrangian)}$$

    without gradient, or the square of the second with it (`regression`; arXiv 2406.07507).
    $q = \partial v / \partial F$. For flow matching they are $v - F - r\,(t - s)\,dF/dt$ and
    $v(G, s) - F + (t - s)\,\partial_s F$, `r` the warmup, which acts on what TrigFlow calls the unstable
    term. The jump's length in rectified flow's time is logit-normal, its end uniform below the rest
    (arXiv 2506.14603, Algorithm 1). At `s` = data the first is sCD's but for a weight. The paper guides away
    from a weaker model, with a strength between 1 and 3 that the network is told (`guide`, `guidance_range`).
    """

    options: Options
    warmup_steps: int

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_gap, k_end, k_noise, k_strength, k_dropout = jr.split(key, 5)
        o, param, process = self.options, model.parameterization, model.process
        sample = told(sample, o.guidance_range, key=k_strength)
        gap = jax.nn.sigmoid(o.gap_mean + o.gap_std * jr.normal(k_gap))
        end = (1 - gap) * jr.uniform(k_end)
        t, s = (rectified_time(process, tau) for tau in (end + gap, end))
        point = noised(process, sample, t, key=k_noise)
        if o.objective == "eulerian":
            weight, dx = 1 / velocity_gain(param, t), jax.lax.stop_gradient(scene.tangent(point))
            F, stable, whole = eulerian(
                model, point, dx, s, weight=weight, derivative=o.derivative, key=k_dropout
            )
            r = jnp.minimum(o.warmup_end, (scene.step + 1) / max(self.warmup_steps, 1))
            g = stable + r.astype(F.dtype) * (whole - stable)
        else:
            F = model.raw(point.x_t, t, sample.cond, s=s, key=k_dropout)
            there, moved = lagrangian(model, point, s, derivative=o.derivative, key=k_dropout)
            v = scene.tangent(Point(point.x0, point.eps, there, s, sample.cond))
            g = (jax.lax.stop_gradient(v) - moved) / velocity_gain(param, s)
        rate = jnp.sqrt(jnp.mean(g**2))
        if o.objective != "regression":
            g = F - jax.lax.stop_gradient(F + bound(g, o.normalize, o.constant))
        error = jnp.mean(g**2)
        return LossOutput(error, {"tangent": rate}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> AlignYourFlowLoss:
    return AlignYourFlowLoss(config, min(config.warmup_steps, context.train.steps))


plugin = Plugin(
    name="ayf",
    summary="Align Your Flow: distills a flow map from a teacher (arXiv 2506.14603)",
    provides={Slot.tangent: scd.build_tangent, Slot.loss: build_loss},
    config=Options,
    off_path=lambda config: config.objective == "lagrangian",
    differentiates=True,
    normalizes=unbounded("ayf"),
    conditions=scd.plugin.conditions,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings={"train.lr": 1e-4},
    makes="flow-map",
    starts_from="teacher",
    taught_by=scd.taught_by,
    noise_labels=2,
)
