"""Reflow: flow matching on the pairs of noise and sample that another flow has made, and its distillation."""

from dataclasses import dataclass
from typing import Annotated

import jax.random as jr
from annotated_types import Ge, Le

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, NoOptions, Plugin, Slot
from scmkit.types import Key, sum_dtype
from scmkit_plugins.methods import diffusion
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options(diffusion.Options):
    """Options of reflow, which are those of diffusion training."""

    label_dropout: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of samples trained without their label, which guidance needs: none, as pairs may be guided."""


class ReflowDistillationLoss(AbstractLoss):
    r"""$d(f(\sigma_T\,\varepsilon, T),\, x_0)$ on stored pairs, where the sampler begins: at the noise alone.

    For flow matching $f = x_t - t\,v$, and this is $\|\varepsilon - v(\varepsilon, 1) - x_0\|^2$
    (arXiv 2209.03003, Section 2.3). Without stored pairs it learns the mean of the data.
    """

    distance: AbstractDistance

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_noise, k_dropout = jr.split(key)
        T = model.process.t_max.astype(sum_dtype(sample.x0.dtype))
        eps = noised(model.process, sample, T, key=k_noise).eps
        f = model.denoise(model.process.sigma(T) * eps, T, sample.cond, key=k_dropout)
        distance = self.distance(f, sample.x0)
        return LossOutput(distance, {"distance": distance}, model.process.ratio(T))


def build_distillation(config: NoOptions, context: Context, *, key: Key) -> ReflowDistillationLoss:
    return ReflowDistillationLoss(context.distance)


flow = Plugin(
    name="reflow",
    summary="rectified flow again, on the pairs of the flow before (arXiv 2209.03003)",
    provides={Slot.tangent: build_data_tangent, Slot.loss: diffusion.build_loss},
    config=Options,
    uses=(Slot.coupling,),
    drops_labels=lambda config: config.label_dropout > 0,
    suggests={
        Slot.noise: "flow-matching",
        Slot.proposal: "uniform",
        Slot.coupling: "stored",
        Slot.sampler: "ddim",
    },
    settings={"ddim.grid": "time", "ddim.to_zero": False, "ddim.steps": (1, 2, 4)},
    makes="diffusion",
)

distillation = Plugin(
    name="reflow-distillation",
    summary="one step of a rectified flow, by regression on its pairs (arXiv 2209.03003)",
    provides={Slot.tangent: build_data_tangent, Slot.loss: build_distillation},
    uses=(Slot.distance, Slot.coupling),
    suggests={
        Slot.noise: "flow-matching",
        Slot.coupling: "stored",
        Slot.sampler: "consistency",
    },
    drops_labels=lambda config: False,
    settings={"consistency.steps": (1,)},
    makes="generator",
)
