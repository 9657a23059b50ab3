"""DMD2: a generator moved by the difference of two scores, one of them learned along, and by a critic."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import generated, noised, surrogate
from scmkit.models.model import Model
from scmkit.plugin import Context, Player, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._adversarial import AdversarialOptions, critic, judged
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options(AdversarialOptions):
    """Options of distribution matching distillation."""

    updates: Annotated[int, Ge(1)] = 5
    """Updates of the fake score before each of the generator's."""


class MatchingLoss(AbstractLoss):
    r"""A value whose gradient in the generated $x$ is $(D_{fake} - D_{real}) / n\overline{|x - D_{real}|}$.

    $D_{real}$ is the teacher's, $n$ the number of values of $x$. Both denoisers look at $x$ noised anew; in
    expectation this is the gradient of the Kullback-Leibler divergence between the noised distributions
    (arXiv 2311.18828, Eqs. 7 and 8; arXiv 2405.14867).
    """

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_x, k_time, k_noise = jr.split(key, 3)
        x = generated(model, sample.x0.shape, sample.cond, key=k_x)
        t = scene.proposal.sample(model.process, key=k_time)
        point = noised(model.process, Sample(x, sample.cond), t, key=k_noise)
        assert scene.teacher is not None
        real = scene.teacher.denoise(point.x_t, t, point.cond)
        fake = scene.models["fake"].denoise(point.x_t, t, point.cond)
        field = (fake - real) / jnp.maximum(jnp.mean(jnp.abs(x - real)), 1e-5)
        size = jnp.sqrt(jnp.mean(field**2))
        return LossOutput(surrogate(x, field), {"field": size}, model.process.ratio(t))


class FakeLoss(AbstractLoss):
    """Denoising of the generator's samples, in units of the network's output."""

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_x, k_time, k_noise, k_dropout = jr.split(key, 4)
        x = generated(scene.models["generator"], sample.x0.shape, sample.cond, key=k_x)
        t = scene.proposal.sample(model.process, key=k_time)
        point = noised(model.process, Sample(x, sample.cond), t, key=k_noise)
        error = model.denoise(point.x_t, t, point.cond, key=k_dropout) - x
        mse = jnp.mean((error / model.parameterization.coefficients(t).out) ** 2)
        return LossOutput(mse, {}, model.process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> AbstractLoss:
    return judged(config, MatchingLoss(), seen_by="fake")


def build_fake_loss(config: Options, context: Context, *, key: Key) -> FakeLoss:
    return FakeLoss()


plugin = Plugin(
    name="dmd2",
    summary="distribution matching distillation with a fake score, and a GAN (arXiv 2405.14867)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    suggests={Slot.sampler: "consistency"},
    settings={
        "consistency.steps": (1,),
        "log-normal.mean": -0.8,
        "log-normal.std": 1.6,
        "train.lr": 1e-5,
    },
    makes="generator",
    starts_from="teacher",
    players=lambda config, train: {
        "fake": Player(build_fake_loss, updates=config.updates),
        **critic(config, seen_by="fake", updates=config.updates),
    },
)
