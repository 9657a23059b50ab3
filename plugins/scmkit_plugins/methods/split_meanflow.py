"""SplitMeanFlow: a jump learns from two jumps that split it anywhere, without derivatives."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.sampling import angle_of, time_at_angle
from scmkit.types import Key
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._flowmap import flow_error, jump_error, two_jumps, two_times


@dataclass(frozen=True)
class Options:
    """Options of SplitMeanFlow."""

    equal: Annotated[float, Ge(0), Le(1)] = 0.5
    """Weight of flow matching against that of split jumps."""


class SplitMeanFlowLoss(AbstractLoss):
    r"""Flow matching, and a jump against its two parts.

    $$\eta\,|v_\theta - \dot x|^2 / q^2 +
      (1 - \eta)\,|G_\theta(x_t, t, s) - G^-(G^-(x_t, t, m), m, s)|^2 / b^2$$

    $m = (1 - \lambda)\, t + \lambda\, s$ in TrigFlow's angle, $\lambda$ uniform. For flow matching the
    second term is $u(x_t, t, s) = (1 - \lambda)\, u(x_m, m, s) + \lambda\, u(x_t, t, m)$, with the weights
    of the two parts; as $\lambda \to 0$ it is MeanFlow's (arXiv 2507.16884, Eqs. 8 to 11). With a teacher's
    tangent (`-p split-meanflow -p tangent=scd`) it distills, as the paper does.
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_times, k_split, k_noise, k_dropout = jr.split(key, 4)
        param, equal = model.parameterization, self.options.equal
        t, s = two_times(scene, model.process, key=k_times)
        part, last = jr.uniform(k_split), angle_of(param, s)
        m = time_at_angle(param, last + (1 - part) * (angle_of(param, t) - last))
        point = noised(model.process, sample, t, key=k_noise)
        end = jax.lax.stop_gradient(two_jumps(model, point, m, s, key=k_dropout))
        split = jnp.mean(jump_error(model, point, s, end, key=k_dropout) ** 2)
        flow = jnp.mean(flow_error(model, point, scene.tangent(point), key=k_dropout) ** 2)
        value = equal * flow + (1 - equal) * split
        return LossOutput(value, {"split": split, "flow": flow}, model.process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> SplitMeanFlowLoss:
    return SplitMeanFlowLoss(config)


plugin = Plugin(
    name="split-meanflow",
    summary="SplitMeanFlow: mean velocities of split intervals (arXiv 2507.16884)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings={"log-normal.mean": -0.4, "log-normal.std": 1.0, "train.lr": 1e-4},
    makes="flow-map",
    noise_labels=2,
)
