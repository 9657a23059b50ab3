"""MeanFlow: flow maps from scratch, by their mean velocity."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import Derivative, adaptive, eulerian, noised, velocity_gain
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options:
    """Options of MeanFlow."""

    equal: Annotated[float, Ge(0), Le(1)] = 0.75
    """Share of samples whose jump ends where it starts: plain flow matching."""
    power: Annotated[float, Ge(0)] = 1.0
    """Power of the squared residual in the adaptive weight; 0 leaves the square as it is."""
    constant: Annotated[float, Gt(0)] = 0.01
    """Added to the squared residual in the adaptive weight."""
    improved: bool = False
    """Whether the network is differentiated along its own velocity: the first step to `improved-meanflow`."""
    derivative: Derivative = "jvp"
    """How the network is differentiated along the path."""


class MeanFlowLoss(AbstractLoss):
    r"""$\Delta^2 / \mathrm{sg}(\Delta^2 + c)^p$, $\Delta = F - F^- - \frac{1}{q} \frac{d}{dt} G(x_t, t, s)$.

    $q = \partial v / \partial F$ is the velocity that one unit of `F` stands for: 1 for flow matching, where
    $\Delta = u - [\dot x - (t - s)\, du/dt]$ (arXiv 2505.13447, Eqs. 10 and 22), for other processes the same
    object at matched noise levels. With `improved` the network's own velocity is the direction of
    $du/dt$ (arXiv 2512.02012, Section 4). The paper's times are `log-normal` with -0.4 and 1.
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_t, k_s, k_equal, k_noise, k_dropout = jr.split(key, 5)
        o, process = self.options, model.process
        t, s = (scene.proposal.sample(process, key=k) for k in (k_t, k_s))
        t, s = jnp.maximum(t, s), jnp.minimum(t, s)
        s = jnp.where(jr.bernoulli(k_equal, o.equal), t, s)
        point = noised(process, sample, t, key=k_noise)
        dx, along = jax.lax.stop_gradient(scene.tangent(point)), None
        if o.improved:
            along = jax.lax.stop_gradient(model.velocity(point.x_t, t, point.cond, key=k_dropout))
        F, _, whole = eulerian(
            model,
            point,
            dx,
            s,
            weight=1 / velocity_gain(model.parameterization, t),
            along=along,
            derivative=o.derivative,
            key=k_dropout,
        )
        square = jnp.sum((F - jax.lax.stop_gradient(F) - whole) ** 2)
        value = adaptive(square, o.power, o.constant)
        return LossOutput(value, {"square": square}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> MeanFlowLoss:
    return MeanFlowLoss(config)


plugin = Plugin(
    name="meanflow",
    summary="MeanFlow: flow maps by their mean velocity (arXiv 2505.13447)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    differentiates=True,
    normalizes=lambda config: "--set meanflow.power=0" if config.power else "",
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings={
        "log-normal.mean": -0.4,
        "log-normal.std": 1.0,
        "train.lr": 1e-4,
        "train.beta2": 0.95,
        "train.ema": "half-life:2000000",
    },
    makes="flow-map",
    starts_from="scratch",
    noise_labels=2,
)
