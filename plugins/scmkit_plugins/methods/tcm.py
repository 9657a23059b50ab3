"""TCM: truncated consistency models, whose second stage learns no more of the path than its noisy part."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Gt, Lt

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import arrived, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Follower, Plugin, Slot
from scmkit.settings import TrainingSettings
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._inversion import AtStages
from scmkit_plugins.methods.ect import ECTLoss
from scmkit_plugins.methods.ect import Options as ECTOptions


@dataclass(frozen=True)
class Options(ECTOptions):
    """Options of truncated consistency training."""

    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Share of training that is the first stage."""
    transition: Annotated[float, Gt(0)] = 1.0
    """Noise-to-signal ratio at which the second stage's part of the path begins, the paper's t'."""
    width: Annotated[float, Gt(0)] = 0.02
    """Width in log ratio of the peak at the transition of the second stage's noise levels."""
    boundary_share: Annotated[float, Gt(0), Lt(1)] = 0.25
    """Share of samples at the transition itself, which tie the second stage to the first."""
    boundary_weight: Annotated[float, Gt(0)] = 0.1
    """Weight of the mean loss of those samples beside the mean loss of the others."""


def stages(config: Options, train: TrainingSettings) -> tuple[int, ...]:
    """The step at which the second stage begins."""
    return (max(int(train.steps * config.share), 1),)


def truncated(options: Options, ratio_max: float, u: Scalar) -> Scalar:
    r"""The noise-to-signal ratio of the second stage's distribution at the quantile `u`.

    Its density in $y = \ln(\rho / \rho')$ is proportional to $1 / \sqrt{y^2 + width^2}$, up to the process's
    largest ratio: the paper's Student's t of scale 0.2, whose 0.01 degrees of freedom leave the power at
    -1.01 instead of -1.
    """
    widest = jnp.arcsinh(jnp.log(ratio_max / options.transition) / options.width)
    return options.transition * jnp.exp(options.width * jnp.sinh(u * widest))


class TCMLoss(AbstractLoss):
    r"""ECT's loss, and in a second stage the same on $\rho_t \ge \rho'$, the first stage's model below.

    $$w\, d\big(f(x_t, t), f^-_{\rho_r < \rho'\ ?\ first\ :\ newest}(x_r, r)\big)$$

    A share of the samples is at $\rho'$, where the target is the first stage's for certain: without such a
    boundary nothing ties `f` to data (arXiv 2410.14895; NVlabs/TCM, `training/loss.py`).
    """

    ect: ECTLoss
    options: Options
    start: int

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_late, k_edge, k_noise, k_dropout = jr.split(key, 5)
        o, process = self.options, model.process
        second = scene.step >= self.start
        at_edge = second & jr.bernoulli(k_edge, o.boundary_share)
        late = truncated(o, process.ratio_max, jr.uniform(k_late))
        ratio = process.ratio(scene.proposal.sample(process, key=k_time))
        ratio = jnp.where(at_edge, o.transition, jnp.where(second, late, ratio))
        lower = self.ect.earlier(ratio, scene.progress)
        here = noised(process, sample, process.time_at(ratio), key=k_noise)
        there = scene.tangent.advance(here, process.time_at(lower))
        newest, first = (
            arrived(m, there, key=k_dropout) for m in (model, scene.followers["first"])
        )
        aim = jax.lax.stop_gradient(jnp.where(second & (lower < o.transition), first, newest))
        distance = self.ect.distance(arrived(model, here, key=k_dropout), aim)
        share = o.boundary_share
        part = jnp.where(at_edge, o.boundary_weight / share, 1 / (1 - share))
        weight = self.ect.weight(ratio, lower, model.parameterization.sigma_data)
        value = jnp.where(second, part, 1.0) * weight * distance
        return LossOutput(value, {"distance": distance}, ratio)


def build_loss(config: Options, context: Context, *, key: Key) -> TCMLoss:
    if config.transition >= (most := context.noise.ratio_max):
        raise ValueError(
            f"transition={config.transition:g} must be below {most:g}, the process's largest "
            "noise-to-signal ratio"
        )
    return TCMLoss(ECTLoss(context.distance, config), config, stages(config, context.train)[0])


plugin = Plugin(
    name="tcm",
    summary="truncated consistency training, in two stages (arXiv 2410.14895)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    suggests={Slot.sampler: "consistency"},
    settings=lambda config: {
        "log-normal.mean": -1.1,
        "log-normal.std": 2.0,
        "train.lr": 1e-4,
        "train.optimizer": "radam",
        "l2.squared": False,
        "consistency.least_ratio": config.transition,
    },
    makes="consistency",
    starts_from="weights",
    followers=lambda config, train: {"first": Follower(AtStages(stages(config, train)), of="ema")},
    stages=stages,
)
