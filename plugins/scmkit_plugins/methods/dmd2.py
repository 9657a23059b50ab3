"""DMD2: a generator moved by the difference of two scores, one of them learned along, and by a critic."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from scmkit.interfaces import AbstractLoss
from scmkit.plugin import Context
from scmkit.types import Key
from scmkit_plugins.methods._adversarial import AdversarialOptions, critic, judged
from scmkit_plugins.methods._matching import (
    MatchingLoss,
    MatchingOptions,
    by_distance,
    fake_score,
    one_step,
)


@dataclass(frozen=True)
class Options(AdversarialOptions, MatchingOptions):
    """Options of distribution matching distillation."""

    updates: Annotated[int, Ge(1)] = 5
    """Updates of the fake score before each of the generator's."""


def build_loss(config: Options, context: Context, *, key: Key) -> AbstractLoss:
    r"""The gradient in the generated $x$ is $(D_{fake} - D_{real}) / n\overline{|x - D_{real}|}$
    (arXiv 2311.18828, Eqs. 7 and 8; arXiv 2405.14867)."""
    return judged(config, MatchingLoss(by_distance, config.guidance_range), seen_by="fake")


plugin = one_step(
    "dmd2",
    "distribution matching distillation with a fake score, and a GAN (arXiv 2405.14867)",
    Options,
    build_loss,
    players=lambda config, train: {
        **fake_score(config, train),
        **critic(config, seen_by="fake", updates=config.updates),
    },
)
