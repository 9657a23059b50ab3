"""ECT: easy consistency tuning, whose two times draw together from stage to stage."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._pair import separation

NARROWEST = 2**17
"""How much narrower the gap may become: its complement, 1 - gap, gives it back to a hundredth in float32."""


@dataclass(frozen=True)
class Options:
    """Options of easy consistency tuning."""

    q: Annotated[float, Gt(1)] = 2.0
    """Factor by which the gap shrinks from stage to stage."""
    k: Annotated[float, Ge(0)] = 8.0
    """How much wider the gap is at small noise."""
    b: Annotated[float, Gt(0)] = 1.0
    """How fast that fades with the noise level."""
    stages: Annotated[int, Ge(1)] = 8
    """Stages of a training."""
    weight: Literal["gap", "snr"] = "gap"
    """One over the gap of the two ratios (CIFAR-10), or 1/ratio^2 + 1/sigma_data^2 (ImageNet, with q = 4)."""

    def __post_init__(self) -> None:
        if self.stages * math.log(self.q) > math.log(NARROWEST):
            raise ValueError(
                f"q={self.q:g} and stages={self.stages} make the gap q**stages times narrower, and "
                f"beyond {NARROWEST} float32 tells the two times apart no more"
            )


class ECTLoss(AbstractLoss):
    r"""The consistency function at two times of one path, $w\, d(f(x_t, t), f^-(x_r, r))$.

    $w = 1 / (\rho_t - \rho_r)$, or EDM's $1/\rho_t^2 + 1/\sigma_d^2$, the paper's on ImageNet.
    With the noise-to-signal ratio $\rho$, $\rho_r = \rho_t \max(0, 1 - n(\rho_t)\, q^{-stage})$ and
    $n(\rho) = 1 + k\,\mathrm{sigmoid}(-b \rho)$; `stage` counts from 1 up as training goes on, so that
    $r \to t$ (arXiv 2406.14548, Eq. 16 and Algorithm 1). Both passes drop the same features.
    """

    distance: AbstractDistance
    options: Options

    def earlier(self, ratio: Scalar, progress: Scalar) -> Scalar:
        """The noise-to-signal ratio of the second time."""
        o = self.options
        stage = jnp.floor(progress * o.stages) + 1
        gap = (1 + o.k * jax.nn.sigmoid(-o.b * ratio)) / o.q**stage
        return ratio * jnp.maximum(0, 1 - gap)

    def weight(self, ratio: Scalar, lower: Scalar, sigma_data: float) -> Scalar:
        """What a separation counts from one ratio to a lower one."""
        if self.options.weight == "gap":
            return 1 / (ratio - lower)
        return 1 / ratio**2 + 1 / sigma_data**2

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        process = model.process
        t = scene.proposal.sample(process, key=k_time)
        ratio, lower = process.ratio(t), self.earlier(process.ratio(t), scene.progress)
        here = noised(process, sample, t, key=k_noise)
        there = scene.tangent.advance(here, process.time_at(lower))
        distance = separation(self.distance, model, model, here, there, key=k_dropout)
        weight = self.weight(ratio, lower, model.parameterization.sigma_data)
        return LossOutput(weight * distance, {"distance": distance}, ratio)


def build_loss(config: Options, context: Context, *, key: Key) -> ECTLoss:
    return ECTLoss(context.distance, config)


plugin = Plugin(
    name="ect",
    summary="easy consistency tuning (arXiv 2406.14548)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    suggests={Slot.sampler: "consistency"},
    settings={
        "log-normal.mean": -1.1,
        "log-normal.std": 2.0,
        "train.lr": 1e-4,
        "train.optimizer": "radam",
        "l2.squared": False,
    },
    makes="consistency",
    starts_from="weights",
)
