"""Matching distributions: a generator, the teacher of its data, and a fake score of what it makes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractLoss,
    AbstractNoiseProcess,
    AbstractParameterization,
    AbstractProposal,
    LossOutput,
    Point,
    Sample,
    Scene,
)
from scmkit.losses import generated, noised, rollout, surrogate
from scmkit.models.model import Model
from scmkit.plugin import Context, Player, Plugin, Slot
from scmkit.settings import TrainingSettings
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._tangent import told
from scmkit_plugins.methods.scd import TeacherOptions, build_tangent, conditions


@dataclass(frozen=True)
class MatchingOptions(TeacherOptions):
    """Options of every method with a fake score."""

    updates: Annotated[int, Ge(1)] = 1
    """Updates of the fake score before each of the generator's."""


class Seen(NamedTuple):
    """A sample that was noised, and how the teacher and the fake score denoise it."""

    point: Point
    real: Float[Array, "*shape"]
    fake: Float[Array, "*shape"]


def seen(process: AbstractNoiseProcess, scene: Scene, point: Point) -> Seen:
    """A point in the eyes of the teacher and of the fake score.

    The teacher is the scene's tangent, which may be guided, and of another process. The gradient in the
    point goes through both.
    """
    real = process.denoised_from_velocity(scene.tangent(point), point.x_t, point.t)
    fake = scene.models["fake"].denoise(point.x_t, point.t, point.cond)
    return Seen(point, real, fake)


def made(
    generator: Model,
    sample: Sample,
    proposal: AbstractProposal,
    steps: int,
    *,
    key: Key,
) -> Float[Array, "*shape"]:
    """What the generator makes in 1 to `steps` steps, as many as not; in later steps it starts from times of
    the proposal, each no later than the one before."""
    shape, cond = sample.x0.shape, sample.cond
    if steps == 1:
        return generated(generator, shape, cond, key=key)
    k_times, k_count, k_roll = jr.split(key, 3)
    draw = jax.vmap(lambda key: proposal.sample(generator.process, key=key))
    times = jax.lax.cummin(draw(jr.split(k_times, steps - 1)))
    count = jr.randint(k_count, (), 0, steps)
    return rollout(generator, shape, times, cond, count=count, key=k_roll)


Weight = Callable[[AbstractParameterization, Float[Array, "*shape"], Seen], Scalar]
"""A sample's weight, by what it is and how it was seen."""


class MatchingLoss(AbstractLoss):
    r"""A value whose gradient in the generated $x$ is $w\,(D_{fake} - D_{real}) / n$, `n` its entries.

    $D_{real}$ is the teacher's. Both denoisers look at $x$ noised anew; in expectation $D_{fake} - D_{real}$
    is $\sigma^2/\alpha^2$ times the gradient of the Kullback-Leibler divergence of the noised distributions.
    $x$ is made in up to `steps` steps. Noise levels are the scene's, or a proposal's of its own.
    """

    weight: Weight = eqx.field(static=True)
    guidance_range: tuple[float, ...] = ()
    steps: int = 1
    proposal: AbstractProposal | None = None

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_x, k_time, k_noise = jr.split(key, 3)
        proposal = scene.proposal if self.proposal is None else self.proposal
        sample = told(sample, self.guidance_range, key=key)
        x = made(model, sample, proposal, self.steps, key=k_x)
        t = proposal.sample(model.process, key=k_time)
        point = noised(model.process, Sample(x, sample.cond), t, key=k_noise)
        field = self.field(model.parameterization, seen(model.process, scene, point))
        size = jnp.sqrt(jnp.mean(field**2))
        return LossOutput(surrogate(x, field), {"field": size}, model.process.ratio(t))

    def field(self, param: AbstractParameterization, it: Seen) -> Float[Array, "*shape"]:
        """What the generated sample is moved against."""
        return self.weight(param, it.point.x0, it) * (it.fake - it.real)


def by_distance(param: AbstractParameterization, x: Float[Array, "*shape"], it: Seen) -> Scalar:
    r"""DMD's weight, $1 / \overline{|x - D_{real}|}$."""
    return 1 / jnp.maximum(jnp.mean(jnp.abs(x - it.real)), 1e-5)


class FakeLoss(AbstractLoss):
    """Denoising of the generator's samples, made in up to `steps` steps, in units of the network's output.

    Noise levels are the scene's, or a proposal's of its own.
    """

    guidance_range: tuple[float, ...] = ()
    steps: int = 1
    proposal: AbstractProposal | None = None

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_x, k_time, k_noise, k_dropout = jr.split(key, 4)
        proposal = scene.proposal if self.proposal is None else self.proposal
        sample = told(sample, self.guidance_range, key=key)
        x = made(scene.models["generator"], sample, proposal, self.steps, key=k_x)
        t = proposal.sample(model.process, key=k_time)
        point = noised(model.process, Sample(x, sample.cond), t, key=k_noise)
        mse = denoising_error(model, point, x, key=k_dropout)
        return LossOutput(mse, {}, model.process.ratio(t))


def denoising_error(
    model: Model, point: Point, target: Float[Array, "*shape"], *, key: Key | None = None
) -> Scalar:
    """How far the denoised sample is from a target, a mean square in units of the network's output."""
    error = model.denoise(point.x_t, point.t, point.cond, key=key) - target
    return jnp.mean((error / model.parameterization.coefficients(point.t).out) ** 2)


def build_fake_loss(config: MatchingOptions, context: Context, *, key: Key) -> FakeLoss:
    return FakeLoss(config.guidance_range)


def fake_score(config: MatchingOptions, train: TrainingSettings) -> Mapping[str, Player]:
    """The one player beside the generator: a diffusion model of what it makes."""
    return {"fake": Player(build_fake_loss, updates=config.updates)}


EDM: dict[str, Any] = {
    "log-normal.mean": -1.2,
    "log-normal.std": 1.2,
    "train.ema": "half-life:500000",
}
"""Settings of methods whose papers distilled EDM's networks."""


def one_step(
    name: str,
    summary: str,
    config: type[MatchingOptions],
    build_loss: Callable[..., Any],
    *,
    settings: Mapping[str, Any] = MappingProxyType({}),
    players: Callable[[Any, TrainingSettings], Mapping[str, Player]] = fake_score,
    uses: Collection[Slot] = (),
) -> Plugin:
    """A method whose generator makes samples in one step, with a fake score beside it.

    Both start as the teacher. By default the learning rate is small, and the noise levels are those of
    EDM2's diffusion.
    """
    usual = {
        "consistency.steps": (1,),
        "log-normal.mean": -0.8,
        "log-normal.std": 1.6,
        "train.lr": 1e-5,
    }
    return Plugin(
        name=name,
        summary=summary,
        provides={Slot.loss: build_loss, Slot.tangent: build_tangent},
        config=config,
        uses=uses,
        off_path=lambda config: True,
        conditions=conditions,
        suggests={Slot.sampler: "consistency"},
        settings=usual | dict(settings),
        makes="generator",
        starts_from="teacher",
        players=players,
    )
