"""Moment matching: few steps of ancestral sampling, each of which a teacher would take back to its start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import noised, surrogate
from scmkit.models.model import Model
from scmkit.plugin import Context, Player, Plugin, Slot
from scmkit.sampling import posterior_step, time_at_angle
from scmkit.settings import TrainingSettings
from scmkit.types import Key
from scmkit_plugins.methods._matching import MatchingOptions, denoising_error, seen
from scmkit_plugins.methods._tangent import told
from scmkit_plugins.methods.scd import build_tangent, conditions

LEAST = 2e-3
"""The noise-to-signal ratio at which paths end, that of the sampler's grid."""


@dataclass(frozen=True)
class Options(MatchingOptions):
    """Options of moment matching."""

    steps: Annotated[int, Ge(1)] = 8
    """Steps of ancestral sampling, the paper's k."""


def stepped(
    generator: Model, sample: Sample, o: Options, *, key: Key
) -> tuple[Float[Array, "*shape"], Point]:
    """What the generator makes of a noisy sample at a time `t` of the sampler's, with its gradient, and
    without gradient the point to which a part of the step from there leads."""
    k_time, k_part, k_noise, k_step = jr.split(key, 4)
    process, param = generator.process, generator.parameterization
    low, most = (jnp.arctan(r / param.sigma_data) for r in (LEAST, process.ratio_max))
    part = jr.uniform(k_part)
    i = jr.randint(k_time, (), 1, o.steps + 1).astype(part.dtype)
    t, s = (time_at_angle(param, low + (most - low) / o.steps * j) for j in (i, i - part))
    point = noised(process, Sample(sample.x0, sample.cond), t, key=k_noise)
    x = generator.denoise(point.x_t, t, sample.cond)
    still, alpha = jax.lax.stop_gradient(x), process.alpha(s)
    here, there = process.ratio(t), process.ratio(s)
    x_s = alpha * posterior_step(point.x_t / process.alpha(t), still, here, there, key=k_step)
    return x, Point(still, (x_s - alpha * still) / process.sigma(s), x_s, s, sample.cond)


class MomentLoss(AbstractLoss):
    r"""$\tilde x \cdot (g_\phi(z_s) - D_{real}(z_s))^-\, / (n\, c_{out}^2)$, the minus for no gradient.

    $\tilde x$ is the generator's denoised sample at $z_t$, and $z_s \sim q(z_s \mid z_t, \tilde x)$ a step on
    from there. Where all conditional means agree, $E[\tilde x \mid z_s] = E[x_0 \mid z_s]$ for every $s$
    within a step of ancestral sampling from $t$, the steps lead to the data (arXiv 2406.04103, Algorithm 2).
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        sample = told(sample, self.options.guidance_range, key=key)
        x, point = stepped(model, sample, self.options, key=key)
        it = seen(model.process, scene, point)
        field = (it.fake - it.real) / model.parameterization.coefficients(point.t).out ** 2
        size = jnp.sqrt(jnp.mean(field**2))
        return LossOutput(surrogate(x, field), {"field": size}, model.process.ratio(point.t))


class AuxiliaryLoss(AbstractLoss):
    r"""$(\|g_\phi(z_s) - \tilde x\|^2 + \|g_\phi(z_s) - D_{real}(z_s)\|^2) / c_{out}^2$: half way from the
    teacher to the mean of what the generator makes."""

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_step, k_dropout = jr.split(key)
        sample = told(sample, self.options.guidance_range, key=key)
        x, point = stepped(scene.models["generator"], sample, self.options, key=k_step)
        real = seen(model.process, scene, point).real
        mse = sum(denoising_error(model, point, y, key=k_dropout) for y in (x, real))
        return LossOutput(jnp.asarray(mse), {}, model.process.ratio(point.t))


def build_loss(config: Options, context: Context, *, key: Key) -> MomentLoss:
    return MomentLoss(config)


def build_auxiliary_loss(config: Options, context: Context, *, key: Key) -> AuxiliaryLoss:
    return AuxiliaryLoss(config)


def players(config: Options, train: TrainingSettings) -> Mapping[str, Player]:
    return {"fake": Player(build_auxiliary_loss, updates=config.updates)}


plugin = Plugin(
    name="moment-matching",
    summary="moment matching for few steps of ancestral sampling (arXiv 2406.04103)",
    provides={Slot.loss: build_loss, Slot.tangent: build_tangent},
    config=Options,
    off_path=lambda config: True,
    conditions=conditions,
    suggests={Slot.sampler: "ancestral"},
    settings=lambda config: {
        "ancestral.steps": (config.steps,),
        "ancestral.to_zero": False,
        "train.lr": 1e-4,
    },
    makes="generator",
    starts_from="teacher",
    players=players,
)
