"""Adversarial distillation: a generator that a critic on the teacher's features cannot tell from data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._adversarial import FROM_NOISE, AdversarialLoss, critic
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options:
    """Options of latent adversarial diffusion distillation."""

    gan: Literal["hinge", "softplus"] = "hinge"
    """The critic's loss."""
    starts: Annotated[tuple[Annotated[float, Gt(0), Le(1)], ...], MinLen(1)] = FROM_NOISE
    """Times, those of rectified flow, at which the generator starts, each as likely: at 1 from noise, before
    it from noisy data. The paper's are 1, 0.75, 0.5 and 0.25."""
    updates: Annotated[int, Ge(1)] = 1
    """Updates of the critic before each of the generator's."""


def build_loss(config: Options, context: Context, *, key: Key) -> AdversarialLoss:
    r"""$-C(h(G_t))$ for what the generator makes, noised to a time of the proposal, with `h` what the frozen
    teacher's network knows of it (arXiv 2403.12015, Section 3; without its distillation term)."""
    return AdversarialLoss(None, 1.0, config.gan, "teacher", config.starts)


plugin = Plugin(
    name="ladd",
    summary="adversarial distillation on a frozen teacher's features (arXiv 2403.12015)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    suggests={Slot.sampler: "consistency"},
    settings={
        "consistency.steps": (1,),
        "log-normal.mean": 0.0,
        "log-normal.std": 1.0,
        "train.lr": 1e-5,
        "train.beta1": 0.0,
    },
    makes="generator",
    starts_from="teacher",
    players=lambda config, train: critic(
        config, seen_by="teacher", updates=config.updates, starts=config.starts
    ),
)
