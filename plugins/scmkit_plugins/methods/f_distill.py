"""f-distill: distribution matching under any f-divergence, by a weight of the ratio of the densities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractBatchLoss, AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import generated, noised, surrogate
from scmkit.models.model import Model
from scmkit.plugin import Context, Player
from scmkit.settings import TrainingSettings
from scmkit.types import Key, Keys, Scalar
from scmkit_plugins.methods._matching import (
    MatchingOptions,
    by_distance,
    fake_score,
    one_step,
    seen,
)
from scmkit_plugins.methods._tangent import told

Divergence = Literal["reverse-kl", "kl", "js", "softened-reverse-kl", "hellinger", "jeffreys"]

WEIGHTS: Mapping[Divergence, Callable[[Array], Array]] = {
    "reverse-kl": jnp.ones_like,
    "kl": lambda r: r,
    "js": lambda r: r / (1 + r),
    "softened-reverse-kl": lambda r: 1 / (1 + r),
    "hellinger": jnp.sqrt,
    "jeffreys": lambda r: 1 + r,
}
"""$h(r) = r^2 f''(r)$ of each divergence, up to a constant."""


@dataclass(frozen=True)
class Options(MatchingOptions):
    """Options of f-distill."""

    updates: Annotated[int, Ge(1)] = 5
    """Updates of the fake score and of the critic before each of the generator's."""
    divergence: Divergence = "js"
    """The divergence of the generated from the teacher's distribution."""
    ratio_min: Annotated[float, Gt(0)] = 0.1
    """Bound of the density ratio from below."""
    ratio_max: Annotated[float, Gt(0)] = 20.0
    """Bound of the density ratio from above."""
    gan: Annotated[float, Ge(0)] = 1e-3
    """Weight of the generator's adversarial loss against the critic."""


class FDistillLoss(AbstractBatchLoss):
    r"""DMD's gradient times $h(r) / \overline{h(r)}$, the mean over the batch, and an adversarial loss.

    $\nabla D_f(p \| q) = -E_q[h(r)\,(\nabla\log p - \nabla\log q)\,\nabla x], \quad h(r) = r^2 f''(r)$

    with the ratio $r = p/q$ of the teacher's to the generated density of noised samples, which a critic
    learns beside the fake score: its logit is $\log r$ (arXiv 2502.15681, Theorem 1; NVlabs/FastGen,
    `f_distill.py`). The critic is another copy of the network, whose output's mean is the logit.
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, batch: Sample, *, keys: Keys) -> LossOutput:
        o, process = self.options, model.process

        def one(sample: Sample, key: Key) -> tuple[Scalar, Scalar, Scalar]:
            k_x, k_time, k_noise = jr.split(key, 3)
            sample = told(sample, o.guidance_range, key=key)
            x = generated(model, sample.x0.shape, sample.cond, key=k_x)
            t = scene.proposal.sample(process, key=k_time)
            it = seen(process, scene, noised(process, Sample(x, sample.cond), t, key=k_noise))
            field = by_distance(model.parameterization, x, it) * (it.fake - it.real)
            return surrogate(x, field), logit(scene.models["critic"], it.point), process.ratio(t)

        matching, log_ratio, ratio = jax.vmap(one)(batch, keys)
        h = weights(log_ratio, o)
        adversarial = jax.nn.softplus(-log_ratio)
        metrics = {"field": jnp.sqrt(2 * matching), "ratio": log_ratio}
        return LossOutput(h * matching + o.gan * adversarial, metrics, ratio)


def weights(log_ratio: Float[Array, " batch"], o: Options) -> Float[Array, " batch"]:
    """The divergence's weights in a batch, whose mean is 1, without gradient."""
    r = jnp.clip(jnp.exp(jax.lax.stop_gradient(log_ratio)), o.ratio_min, o.ratio_max)
    h = WEIGHTS[o.divergence](r)
    return h / jnp.mean(h)


def logit(critic: Model, point: Point) -> Scalar:
    """The critic's log ratio of the real to the generated density at a noised sample."""
    return jnp.mean(critic.raw(point.x_t, point.t, point.cond))


class CriticLoss(AbstractLoss):
    """Logistic regression of noised data against noised generated samples, with one time for both."""

    guidance_range: tuple[float, ...] = ()

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_x, k_time, k_real, k_fake = jr.split(key, 4)
        sample = told(sample, self.guidance_range, key=key)
        x = generated(scene.models["generator"], sample.x0.shape, sample.cond, key=k_x)
        t = scene.proposal.sample(model.process, key=k_time)
        data = noised(model.process, Sample(sample.x0, sample.cond), t, key=k_real)
        fake = noised(model.process, Sample(x, sample.cond), t, key=k_fake)
        value = jax.nn.softplus(-logit(model, data)) + jax.nn.softplus(logit(model, fake))
        return LossOutput(value, {}, model.process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> FDistillLoss:
    return FDistillLoss(config)


def build_critic_loss(config: Options, context: Context, *, key: Key) -> CriticLoss:
    return CriticLoss(config.guidance_range)


def players(config: Options, train: TrainingSettings) -> dict[str, Any]:
    critic = Player(build_critic_loss, updates=config.updates)
    return {**fake_score(config, train), "critic": critic}


plugin = one_step(
    "f-distill",
    "distribution matching under an f-divergence (arXiv 2502.15681)",
    Options,
    build_loss,
    players=players,
)
