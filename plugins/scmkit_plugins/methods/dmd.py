"""DMD: a generator moved by the difference of two scores, and held to pairs that its teacher made."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Sample, Scene
from scmkit.models.model import Model
from scmkit.plugin import Context, Slot
from scmkit.types import Key
from scmkit_plugins.methods._matching import (
    MatchingLoss,
    MatchingOptions,
    by_distance,
    one_step,
)


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


plugin = one_step(
    "dmd",
    "distribution matching distillation, with regression on pairs (arXiv 2311.18828)",
    Options,
    build_loss,
    uses=(Slot.distance, Slot.coupling),
)
