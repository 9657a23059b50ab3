"""SiDA: score identity distillation, and a critic of what its fake score knows of data and of samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import jax.numpy as jnp
from annotated_types import Ge

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.models.model import Model
from scmkit.plugin import Context, Player
from scmkit.settings import TrainingSettings
from scmkit.types import Key
from scmkit_plugins.methods import sid
from scmkit_plugins.methods._adversarial import critic, persuasion, refuse_strengths, verdict
from scmkit_plugins.methods._matching import EDM, fake_score, one_step


@dataclass(frozen=True)
class Options(sid.Options):
    """Options of adversarial score identity distillation."""

    alpha: float = 1.0
    """How much of the squared difference of the scores is taken off."""
    gan: Literal["softplus", "hinge"] = "softplus"
    """The critic's loss, the paper's or a hinge."""
    gan_weight: Annotated[float, Ge(0)] = 1e-4
    """Weight of the adversarial term beside the mean over a sample's values that `sid` takes."""


class SiDALoss(AbstractLoss):
    r"""$w\,\big(\frac{1}{n}(D_{real} - D_{fake}) \cdot ((D_{real} - x) - \alpha (D_{real} - D_{fake}))
    + \lambda \log(1 + e^{-C})\big)$ with $w = 1 / \overline{|x - D_{real}|}^{\,-}$, the same for both terms.

    $C$ is the critic's number for what the fake score's network knows of the very $x_t$ that both scores look
    at (arXiv 2410.14919; mingyuanzhou/SiD, branch sida, `sida_loss.py`, whose weights of 100 and 0.01 make
    $\lambda$ 1e-4). There the critic has no weights of its own: it is the mean of the channels at the end of
    the fake score's encoder, which is trained to tell data from samples as well as to denoise. Here the fake
    score only denoises, and a small perceptron on each position of its narrowest layer tells them apart.
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        o = self.options
        it, weight = sid.looked_at(model, scene, sample, o, key=key)
        found = verdict(scene.models["critic"], scene.models["fake"], it.point)
        adversarial = o.gan_weight * persuasion(found, o.gan)
        value = weight * (jnp.mean(sid.identity(it, o.alpha)) + adversarial)
        metrics = {"field": weight * sid.gap(it), "critic": found}
        return LossOutput(value, metrics, model.process.ratio(it.point.t))


def build_loss(config: Options, context: Context, *, key: Key) -> SiDALoss:
    refuse_strengths(config)
    return SiDALoss(config)


def players(config: Options, train: TrainingSettings) -> Mapping[str, Player]:
    judge = critic(config, seen_by="fake", updates=config.updates)
    return {**fake_score(config, train), **judge}


plugin = one_step(
    "sida",
    "score identity distillation with a critic of the fake score's features (arXiv 2410.14919)",
    Options,
    build_loss,
    settings=EDM | {"train.beta1": 0.0},
    players=players,
)
