"""Shortcut models: a jump learns from two jumps half as long, the shortest from flow matching."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Array, Bool, Float

from scmkit.interfaces import AbstractLoss, AbstractModel, LossOutput, Point, Sample, Scene
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Follower, Plugin, Slot
from scmkit.sampling import time_at_angle
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._flowmap import Lagging, flow_error, jump_error


@dataclass(frozen=True)
class Options:
    """Options of shortcut models."""

    finest: Annotated[int, Gt(1), Le(FINEST)] = 128
    """Steps, a power of two, of the finest grid, on which a jump is an Euler step of the velocity."""
    share: Annotated[float, Ge(0), Le(1)] = 0.125
    """Weight of the jumps against that of flow matching."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the averaged weights that make the two half jumps."""

    def __post_init__(self) -> None:
        if self.finest & (self.finest - 1):
            raise ValueError(f"finest={self.finest} must be a power of two")


class ShortcutLoss(AbstractLoss):
    r"""A jump against two halves of it, and flow matching.

    $$\lambda\,|G_\theta(x_t, t, s) - G^-(G^-(x_t, t, m), m, s)|^2 / b^2 +
      (1 - \lambda)\,|v_\theta - \dot x|^2 / q^2$$

    `t`, `m` and `s` are neighbours on a grid of $2, 4, \dots$ `finest` steps, each as likely, equal in
    TrigFlow's angle: the steps that the sampler `flow-map` takes. For flow matching the first term says
    $u(x_t, 2d) = \frac12 [u(x_t, d) + u(x'_{t+d}, d)]$ (arXiv 2410.12557, Section 3 and Algorithm 1). On
    the finest grid a half jump is a step of the velocity. The paper gives one sample in eight to the first
    term and the others to the second; here each sample has both, weighted so. The paper's times are
    uniform.
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_level, k_step, k_time, k_noise, k_dropout = jr.split(key, 5)
        o, param, process = self.options, model.parameterization, model.process
        level = jr.randint(k_level, (), 1, o.finest.bit_length())
        steps = 2**level // 2
        most = jnp.arctan(process.ratio_max / param.sigma_data)
        i, count = (n.astype(most.dtype) for n in (jr.randint(k_step, (), 0, steps), steps))
        t, m, s = (time_at_angle(param, most * (i + j) / count) for j in (1, 0.5, 0))
        point = noised(process, sample, t, key=k_noise)
        end = self.halves(scene.followers["target"], point, m, s, 2 * steps == o.finest, k_dropout)
        jump = jnp.mean(jump_error(model, point, s, end, key=k_dropout) ** 2)
        r = scene.proposal.sample(process, key=k_time)
        other = noised(process, sample, r, key=k_noise)
        flow = jnp.mean(flow_error(model, other, scene.tangent(other), key=k_dropout) ** 2)
        value = o.share * jump + (1 - o.share) * flow
        return LossOutput(value, {"jump": jump, "flow": flow}, process.ratio(r))

    def halves(
        self,
        model: AbstractModel,
        point: Point,
        m: Scalar,
        s: Scalar,
        finest: Bool[Array, ""],
        key: Key,
    ) -> Float[Array, "*shape"]:
        """Where two jumps lead, without gradient; on the finest grid two steps of the velocity."""
        x = point.x_t
        for t, end in ((point.t, m), (m, s)):
            a, b = model.parameterization.jump(t, end)
            x = a * x + b * model.raw(x, t, point.cond, s=jnp.where(finest, t, end), key=key)
        return jax.lax.stop_gradient(x)


def build_loss(config: Options, context: Context, *, key: Key) -> ShortcutLoss:
    return ShortcutLoss(config)


plugin = Plugin(
    name="shortcut",
    summary="shortcut models: jumps from halves of jumps (arXiv 2410.12557)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings={
        "log-normal.mean": 0.0,
        "log-normal.std": 1.8,
        "train.lr": 1e-4,
        "train.beta2": 0.999,
        "train.ema": "half-life:180000",
    },
    makes="flow-map",
    noise_labels=2,
    followers=lambda config, train: {"target": Follower(Lagging(config.decay))},
)
