"""DMD2 without its GAN: a generator moved by the difference of two scores, one of them learned along."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

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
    """Options of distribution matching distillation."""

    updates: Annotated[int, Ge(1)] = 5
    """Updates of the fake score before each of the generator's."""


def build_loss(config: Options, context: Context, *, key: Key) -> MatchingLoss:
    r"""The gradient in the generated $x$ is $(D_{fake} - D_{real}) / n\overline{|x - D_{real}|}$
    (arXiv 2311.18828, Eqs. 7 and 8; arXiv 2405.14867)."""
    return MatchingLoss(by_distance, config.guidance_range)


plugin = Plugin(
    name="dmd2",
    summary="distribution matching distillation with a fake score, no GAN (arXiv 2405.14867)",
    provides={Slot.loss: build_loss, Slot.tangent: build_tangent},
    config=Options,
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
