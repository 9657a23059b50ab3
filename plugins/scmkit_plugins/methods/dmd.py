"""DMD: a generator moved by the difference of two scores, and held to pairs that its teacher made."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Sample, Scene
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._matching import (
    MatchingLoss,
    MatchingOptions,
    by_distance,
    fake_score,
)
from scmkit_plugins.methods.scd import build_tangent, conditions


@dataclass(frozen=True)
class Options(MatchingOptions):
    """Options of distribution matching distillation with regression."""

    regression: Annotated[float, Ge(0)] = 0.25
    """Weight of the regression on pairs."""


class DMDLoss(AbstractLoss):
    r"""$L_{DMD} + \lambda\, d(G(\sigma_{max}\,\varepsilon), x_0)$.

    $L_{DMD}$'s gradient in a generated $x$ is $(D_{fake} - D_{real}) / n\overline{|x - D_{real}|}$. The
    second term is for samples that a coupling gave their noise: pairs that the teacher's ODE made keep every
    noise at the teacher's sample, and so all modes; without a coupling there is none (arXiv 2311.18828, Eqs.
    7 to 9, with LPIPS for the distance).
    """

    matching: MatchingLoss
    distance: AbstractDistance
    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        out = self.matching(model, scene, sample, key=key)
        if sample.eps is None:
            return out
        t_max = model.process.t_max.astype(sample.eps.dtype)
        noise = model.process.sigma(t_max) * sample.eps
        distance = self.distance(model.denoise(noise, t_max, sample.cond), sample.x0)
        value = out.value + self.options.regression * distance
        return LossOutput(value, out.metrics | {"regression": distance}, out.ratio)


def build_loss(config: Options, context: Context, *, key: Key) -> DMDLoss:
    return DMDLoss(MatchingLoss(by_distance, config.guidance_range), context.distance, config)


plugin = Plugin(
    name="dmd",
    summary="distribution matching distillation, with regression on pairs (arXiv 2311.18828)",
    provides={Slot.loss: build_loss, Slot.tangent: build_tangent},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    conditions=conditions,
    suggests={Slot.sampler: "consistency"},
    settings={
        "consistency.steps": (1,),
        "log-normal.mean": -0.8,
        "log-normal.std": 1.6,
        "train.lr": 1e-5,
    },
    makes="generator",
    starts_from="teacher",
    players=fake_score,
)
