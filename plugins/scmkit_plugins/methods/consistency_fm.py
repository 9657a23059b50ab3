"""Consistency-FM: straight flows in segments, each of which is a consistency model of its own."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Array

from scmkit.interfaces import AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options:
    """Options of consistency flow matching."""

    segments: Annotated[int, Ge(1), Le(FINEST)] = 2
    """Equal parts of time, each with an end of its own; so many steps are taken in sampling."""
    delta: Annotated[float, Gt(0), Lt(1)] = 1e-3
    """Difference of the two times that are compared."""
    alpha: Annotated[float, Ge(0)] = 1e-5
    """Weight of the squared difference of the two velocities."""
    known: Annotated[float, Ge(0), Le(1)] = 0.1
    """Time up to which the target is the end of the segment on the sample's own line."""
    warm_start: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of training at the beginning in which that is the target at all times."""


class ConsistencyFMLoss(AbstractLoss):
    r"""Both end and velocity of a segment's flow agree at two times of one path, $r = t - \Delta$.

    $$\tfrac12 \|f(x_t, t) - f^-(x_r, r)\|^2 + \tfrac\alpha2 \|v(x_t, t) - v^-(x_r, r)\|^2$$

    $f(x_t, t) = x_t + (s - t)\, v(x_t, t)$ leads to the end $s$ of the segment of $t$, where $r$ stops at the
    latest. For another process it is the DDIM step between the same noise levels: time is
    $\rho / (1 + \rho)$. At $r \le known$ the target is $x_s$ itself; there, and where no $\Delta$ is left of
    the segment, velocities are not compared (arXiv 2407.02398, Section 3).
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        o, process, param = self.options, model.process, model.parameterization
        last = process.ratio_max / (1 + process.ratio_max)
        u = jr.uniform(k_time, minval=1e-4, maxval=last)
        end = jnp.floor(u * o.segments) / o.segments
        near = jnp.maximum(u - o.delta, end)
        t, r, s = (process.time_at(a / (1 - a)) for a in (u, near, end))
        here = noised(process, sample, t, key=k_noise)
        there, exact = (scene.tangent.advance(here, time) for time in (r, s))

        def seen(point: Point, t: Scalar) -> tuple[Array, Array]:
            F = model.raw(point.x_t, t, point.cond, key=k_dropout)
            a, b = param.jump(t, s)
            return a * point.x_t + b * F, param.velocity(F, point.x_t, t)

        f, v = seen(here, t)
        # At the data itself, where no network is asked, the label of a time could be infinite.
        f_r, v_r = jax.lax.stop_gradient(seen(there, jnp.maximum(r, process.time_at(1e-4 * u))))
        known = (near <= o.known) | (scene.progress < o.warm_start)
        target = jnp.where(known | (near <= end), exact.x_t, f_r)
        square = jnp.sum((f - jax.lax.stop_gradient(target)) ** 2)
        both = ~known & (u - end > 1.01 * o.delta)
        turned = jnp.where(both, jnp.sum((v - v_r) ** 2), 0)
        value = 0.5 * (square + o.alpha * turned)
        return LossOutput(value, {"square": square}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> ConsistencyFMLoss:
    return ConsistencyFMLoss(config)


plugin = Plugin(
    name="consistency-fm",
    summary="consistency flow matching in segments (arXiv 2407.02398)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.coupling,),
    suggests={
        Slot.noise: "flow-matching",
        Slot.sampler: "ddim",
    },
    settings=lambda config: {
        "ddim.steps": (config.segments,),
        "ddim.grid": "rectified",
        "ddim.to_zero": False,
        "ddim.ratio_min": 1e-4,
        "train.lr": 2e-4,
        "train.beta2": 0.999,
    },
    makes="generator",
    starts_from="scratch",
)
