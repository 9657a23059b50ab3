"""SoFlow: the solution of the flow's ODE, by jumps from two neighboring times of one path."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import adaptive, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._flowmap import flow_error, two_times


@dataclass(frozen=True)
class Options:
    """Options of SoFlow."""

    equal: Annotated[float, Ge(0), Le(1)] = 0.75
    """Weight of flow matching against that of the consistency of jumps."""
    first: Annotated[float, Gt(0), Le(1)] = 0.1
    """Part of the jump that lies between the two times at first."""
    last: Annotated[float, Gt(0), Le(1)] = 0.002
    """That part at the end; it shrinks exponentially."""
    power: Annotated[float, Ge(0)] = 0.5
    """Power of the mean squared residual in the adaptive weight; 0 leaves the square as it is."""
    constant: Annotated[float, Gt(0)] = 0.01
    """Added to the mean squared residual in the adaptive weight."""


class SoFlowLoss(AbstractLoss):
    r"""Flow matching, and jumps from two times of one path.

    $$\eta\,|v_\theta - \dot x|^2 / q^2 +
      (1 - \eta)\,|G_\theta(x_t, t, s) - G^-(x_l, l, s)|^2 / (b_{ts}\, b_{tl})$$

    $x_l$ is where the tangent leads from $x_t$ to $l = t + r\,(s - t)$, `r` falling from `first` to `last`.
    As $r \to 0$ the gradient is MeanFlow's, with no derivative of the network. Each square has its adaptive
    weight, of the second that of $|\cdot|^2 / b_{tl}^2$ (arXiv 2512.15657).
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_times, k_noise, k_dropout = jr.split(key, 3)
        o, param, stop = self.options, model.parameterization, jax.lax.stop_gradient
        t, s = two_times(scene, model.process, key=k_times)
        part = o.first * (o.last / o.first) ** scene.progress.astype(t.dtype)
        here = noised(model.process, sample, t, key=k_noise)
        there = scene.tangent.advance(here, t + part * (s - t))
        end = stop(model.jump(there.x_t, there.t, s, here.cond, key=k_dropout))
        gap = jnp.mean((model.jump(here.x_t, t, s, here.cond, key=k_dropout) - end) ** 2)
        apart = t - s > 1e-3 * t  # Nearer, float32 has few digits of the difference left.
        b_s, b_l = (jnp.where(apart, param.jump(t, u)[1], 1) for u in (s, there.t))
        rate = jnp.where(apart, gap / b_l**2, 0)
        jump = adaptive(rate, o.power, o.constant) * b_l / b_s
        flow = jnp.mean(flow_error(model, here, scene.tangent(here), key=k_dropout) ** 2)
        value = o.equal * adaptive(flow, o.power, o.constant) + (1 - o.equal) * jump
        return LossOutput(value, {"rate": rate, "flow": flow}, model.process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> SoFlowLoss:
    return SoFlowLoss(config)


plugin = Plugin(
    name="soflow",
    summary="solution flow models: neighboring jumps, no derivatives (arXiv 2512.15657)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    normalizes=lambda config: "--set soflow.power=0" if config.power else "",
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings={"log-normal.mean": 0.2, "log-normal.std": 0.8, "train.lr": 1e-4},
    makes="flow-map",
    noise_labels=2,
)
