"""Variational score distillation summed with consistency distillation."""

from dataclasses import dataclass
from typing import Annotated

import jax.random as jr
from annotated_types import Ge

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods import scd, vsd
from scmkit_plugins.methods._matching import fake_score
from scmkit_plugins.methods._tangent import ConsistencyLoss


@dataclass(frozen=True)
class Options(scd.Options, vsd.Options):
    """Options of the sum. The recipe's noise levels are those of sCD and of the fake score."""

    weight: Annotated[float, Ge(0)] = 1.0
    r"""Weight of variational score distillation, the paper's $\lambda_{VSD}$."""


class SumLoss(AbstractLoss):
    r"""$L_{sCD} + \lambda\, L_{VSD}$, each with a learned weight of its own (arXiv 2410.11081, Appendix C).

    VSD moves where the teacher's density is high, sCD keeps every noise on its path: precision and
    diversity.
    """

    consistency: ConsistencyLoss
    matching: vsd.VSDLoss
    weight: float

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        keys = jr.split(key)
        scm = self.consistency(model, scene, sample, key=keys[0])
        match = self.matching(model, scene, sample, key=keys[1])
        value = scm.value + self.weight * match.value
        return LossOutput(value, scm.metrics | match.metrics, scm.ratio)


def build_loss(config: Options, context: Context, *, key: Key) -> SumLoss:
    consistency = scd.build_guided_loss(config, context, key=key)
    return SumLoss(consistency, vsd.build_loss(config, context, key=key), config.weight)


plugin = Plugin(
    name="vsd-scd",
    summary="the sum of VSD and sCD (arXiv 2410.11081, Appendix C)",
    provides={Slot.loss: build_loss, Slot.tangent: scd.build_tangent},
    config=Options,
    off_path=lambda config: True,
    conditions=scd.conditions,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "consistency"},
    settings={"log-normal.mean": -0.8, "log-normal.std": 1.6, "train.lr": 1e-4},
    makes="consistency",
    starts_from="teacher",
    players=fake_score,
)
