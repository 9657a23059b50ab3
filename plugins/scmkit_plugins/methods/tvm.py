"""Terminal velocity matching: where a jump ends it moves with the model's own velocity."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le, Lt

from scmkit.interfaces import AbstractLoss, Conditioning, LossOutput, Sample, Scene
from scmkit.losses import Derivative, lagrangian, noised, velocity_gain
from scmkit.models.model import Model
from scmkit.plugin import Context, Follower, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._flowmap import (
    Lagging,
    classes_to_guide,
    flow_error,
    maybe_unlabelled,
    rectified_time,
)


@dataclass(frozen=True)
class Options:
    """Options of terminal velocity matching."""

    gap_mean: float = -0.8
    """Mean of the logit of the jump's length, in rectified flow's time."""
    gap_std: Annotated[float, Gt(0)] = 1.0
    """Standard deviation of that logit."""
    end_mean: float = -0.4
    """Mean of the logit of the time where the jump ends, cut where the jump would start beyond the noise."""
    end_std: Annotated[float, Gt(0)] = 1.0
    """Standard deviation of that logit."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Decay of the averaged weights whose velocity is the target."""
    detach: bool = False
    """Whether no gradient enters the network's derivative, which saves memory."""
    guidance_max: Annotated[float, Ge(1)] = 1.0
    """Guidance strengths are drawn uniformly from 1 up to this, and told to the network; 1 is none."""
    label_dropout: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of samples trained without their label, where there is guidance."""
    derivative: Derivative = "jvp"
    """How the network is differentiated, with a gradient through its derivative."""


class TerminalVelocityLoss(AbstractLoss):
    r"""The velocity at the end of a jump, and flow matching.

    $$\beta^2 |\partial_s G_\theta - v_{ema}(G, s)|^2 / q_s^2 + \beta^2 |v_\theta(x_r, r) - v^*|^2 / q_r^2$$

    The gradient passes through $\partial_s F$, a derivative of second order, and not through `v_ema`.
    $v^* = \omega\,\dot x + (1 - \omega)\, v_{ema}(x_r, r)$ without the label, and $\beta = 1/\omega$
    (arXiv 2511.19797; lumalabs/tvm, `training/wrapper.py`). The exact flow map has
    $\partial_s G = v(G, s)$. `r` is drawn from the recipe's proposal.
    """

    options: Options
    num_classes: int

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_gap, k_end, k_time, k_noise, k_guidance, k_dropout = jr.split(key, 6)
        o, process, target = self.options, model.process, scene.followers["target"]
        gap = jax.nn.sigmoid(o.gap_mean + o.gap_std * jr.normal(k_gap))
        most = (jnp.log((1 - gap) / gap) - o.end_mean) / o.end_std
        end = jr.truncated_normal(k_end, -jnp.inf, most)
        end = jax.nn.sigmoid(o.end_mean + o.end_std * end)
        t, s = (rectified_time(process, tau) for tau in (end + gap, end))
        r = scene.proposal.sample(process, key=k_time)
        cond, omega = self.drawn(sample.cond, key=k_guidance)
        given = Sample(sample.x0, cond, sample.eps)
        here, other = (noised(process, given, u, key=k_noise) for u in (t, r))
        there, moved = lagrangian(
            model, here, s, derivative=o.derivative, detach=o.detach, key=k_dropout
        )
        v = target.velocity(jax.lax.stop_gradient(there), s, cond, key=k_dropout)
        terminal = jnp.mean(((moved - v) / velocity_gain(model.parameterization, s)) ** 2)
        terminal = jnp.where(t - s > 1e-3 * t, terminal, 0)
        dx = scene.tangent(other)
        if o.guidance_max > 1:
            dx = omega * dx + (1 - omega) * target.velocity(other.x_t, r, key=k_dropout)
        flow = jnp.mean(flow_error(model, other, dx, key=k_dropout) ** 2)
        value = (terminal + flow) / omega**2
        return LossOutput(value, {"terminal": terminal, "flow": flow}, process.ratio(t))

    def drawn(self, cond: Conditioning, *, key: Key) -> tuple[Conditioning, Scalar]:
        """What the network is told, and the strength of guidance."""
        if self.options.guidance_max == 1:
            return cond, jnp.ones(())
        k_label, k_strength = jr.split(key)
        o = self.options
        label, lost = maybe_unlabelled(cond, self.num_classes, o.label_dropout, key=k_label)
        omega = jnp.where(lost, 1, jr.uniform(k_strength, minval=1, maxval=o.guidance_max))
        return Conditioning(label, {"guidance": omega}), omega


def build_loss(config: Options, context: Context, *, key: Key) -> TerminalVelocityLoss:
    return TerminalVelocityLoss(config, classes_to_guide(config.guidance_max, context))


plugin = Plugin(
    name="tvm",
    summary="terminal velocity matching: flow maps from scratch (arXiv 2511.19797)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    differentiates=True,
    conditions=lambda config: ("guidance",) if config.guidance_max > 1 else (),
    drops_labels=lambda config: config.guidance_max > 1 and config.label_dropout > 0,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings={
        "log-normal.mean": -0.4,
        "log-normal.std": 1.0,
        "train.lr": 1e-4,
        "train.beta2": 0.95,
    },
    makes="flow-map",
    noise_labels=2,
    followers=lambda config, train: {"target": Follower(Lagging(config.decay))},
)
