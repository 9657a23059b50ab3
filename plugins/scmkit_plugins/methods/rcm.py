"""rCM: a consistency model regularized by distribution matching on what it makes in a few steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Lt

from scmkit.interfaces import (
    AbstractLoss,
    AbstractNoiseProcess,
    AbstractProposal,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.losses import arrived, frozen, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Player, Plugin, Slot
from scmkit.settings import TrainingSettings
from scmkit.types import Key, Scalar
from scmkit_plugins.methods import scd
from scmkit_plugins.methods._matching import FakeLoss, MatchingLoss, MatchingOptions, by_distance
from scmkit_plugins.methods._tangent import consistency_error, told


@dataclass(frozen=True)
class Options(scd.Options, MatchingOptions):
    """Options of score-regularized consistency models. The recipe's noise levels are those of sCM."""

    updates: Annotated[int, Ge(1)] = 4
    """Updates of the fake score before each of the generator's."""
    warmup_steps: Annotated[int, Ge(0)] = 1000
    """Steps over which the unstable term of the tangent is phased in."""
    discrete: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of training, its first stage, in which consistency is discrete (dCM)."""
    alone: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of training, the next stage, in which sCM is not yet regularized."""
    consistency: Annotated[float, Ge(0)] = 100.0
    """Weight of the consistency loss."""
    matching: Annotated[float, Ge(0)] = 1.0
    """Weight of distribution matching."""
    steps: Annotated[int, Ge(1)] = 4
    """Most steps in which the samples to be matched are made."""
    points: Annotated[int, Ge(2)] = 48
    """Points of dCM's grid of times."""
    shift: Annotated[float, Gt(0)] = 5.0
    r"""Shift towards noise of dCM's grid, and of the times of distribution matching."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discrete + self.alone >= 1:
            raise ValueError(f"discrete={self.discrete} and alone={self.alone} leave no steps")


class Shifted(AbstractProposal):
    r"""$\sigma/\alpha = \sigma_d\, s\, u / (1 - u)$ with $u$ uniform: rectified flow's time, shifted."""

    sigma_data: float
    shift: float

    def at(self, process: AbstractNoiseProcess, u: Scalar) -> Scalar:
        """The time of a part `u` of the way to noise."""
        ratio = self.sigma_data * self.shift * u / jnp.maximum(1 - u, 1e-6)
        return process.time_at(jnp.clip(ratio, 1e-3, process.ratio_max))

    def sample(self, process: AbstractNoiseProcess, *, key: Key) -> Scalar:
        return self.at(process, jr.uniform(key))


class RCMLoss(AbstractLoss):
    r"""$\lambda_c\, L_{CM} + \lambda_m\, L_{DMD}$, in the order dCM, sCM, sCM + DMD, a stage each.

    $L_{sCM} = \tfrac1n \|F - F^- - \hat g\|^2$ without a learned weight; $L_{dCM}$ is the squared distance
    between `f` at two neighboring points of the teacher's path. $L_{DMD}$ moves samples that were made in 1
    to `steps` steps, with the gradient in the last (arXiv 2510.08431, Sections 3 and 4; NVlabs/rcm).
    """

    options: Options
    matching: MatchingLoss
    proposal: Shifted
    ends: tuple[int, ...]

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        o, keys = self.options, jr.split(key)
        sample = told(sample, o.guidance_range, key=key)
        after = [scene.step >= end for end in self.ends]

        def discrete() -> tuple[Scalar, Scalar]:
            return self.discrete(model, scene, sample, key=keys[0])

        def continuous() -> tuple[Scalar, Scalar]:
            error, _, t = consistency_error(model, scene, sample, o, key=keys[0])
            return error, t

        error, t = jax.lax.cond(after[0], continuous, discrete) if o.discrete else continuous()

        def matched() -> tuple[Scalar, Scalar]:
            out = self.matching(model, scene, sample, key=keys[1])
            return 2 * out.value, out.metrics["field"]

        none = (jnp.zeros_like(error), jnp.zeros_like(error))
        match, size = jax.lax.cond(after[-1], matched, lambda: none)
        value = o.consistency * error + o.matching * match
        metrics = {"consistency": error, "field": size}
        return LossOutput(value, metrics, model.process.ratio(t))

    def discrete(
        self, model: Model, scene: Scene, sample: Sample, *, key: Key
    ) -> tuple[Scalar, Scalar]:
        """dCM's squared distance and its time."""
        k_time, k_noise, k_dropout = jr.split(key, 3)
        process, u = model.process, jr.uniform(k_time, minval=1 / self.options.points)
        t, r = (self.proposal.at(process, v) for v in (u, u - 1 / self.options.points))
        point = noised(process, sample, t, key=k_noise)
        target = arrived(frozen(model), scene.tangent.advance(point, r), key=k_dropout)
        f = model.denoise(point.x_t, t, point.cond, key=k_dropout)
        return jnp.mean((f - target) ** 2), t


def stages(config: Options, train: TrainingSettings) -> tuple[int, ...]:
    shares = [share for share in (config.discrete, config.alone) if share]
    return tuple(int(train.steps * share) for share in accumulate(shares))


def proposal(config: Options, context: Context) -> Shifted:
    return Shifted(context.data.sigma_data, config.shift)


def build_loss(config: Options, context: Context, *, key: Key) -> RCMLoss:
    times = proposal(config, context)
    matching = MatchingLoss(by_distance, steps=config.steps, proposal=times)
    return RCMLoss(config, matching, times, stages(config, context.train) or (0,))


def build_fake_loss(config: Options, context: Context, *, key: Key) -> FakeLoss:
    return FakeLoss(config.guidance_range, config.steps, proposal(config, context))


def players(config: Options, train: TrainingSettings) -> Mapping[str, Player]:
    return {"fake": Player(build_fake_loss, updates=config.updates)}


plugin = Plugin(
    name="rcm",
    summary="score-regularized consistency models: sCM and DMD (arXiv 2510.08431)",
    provides={Slot.loss: build_loss, Slot.tangent: scd.build_tangent},
    config=Options,
    off_path=lambda config: True,
    conditions=scd.conditions,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "consistency"},
    settings={"log-normal.mean": 0.0, "log-normal.std": 1.6, "train.lr": 1e-5},
    makes="consistency",
    starts_from="teacher",
    players=players,
    stages=stages,
)
