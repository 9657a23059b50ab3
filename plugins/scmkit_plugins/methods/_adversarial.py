"""Adversarial terms: a critic on what a network knows of noisy samples, and a loss that asks it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, Conditioning, LossOutput, Point, Sample, Scene
from scmkit.losses import generated, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Player
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._flowmap import rectified_time

Form = Literal["hinge", "softplus"]
Starts = tuple[float, ...]
"""Rectified flow's times at which the generator starts, each as likely; none for those of the proposal."""

FROM_NOISE: Starts = (1.0,)

Judge = Callable[[Float[Array, "*space c"]], Scalar]
"""A critic: a number for what a network knows of a sample."""


@dataclass(frozen=True)
class AdversarialOptions:
    """Options of methods with an adversarial term."""

    gan: Literal["none", "hinge", "softplus"] = "none"
    """The critic's loss; without one there is no critic."""
    gan_weight: Annotated[float, Ge(0)] = 3e-3
    """Weight of the adversarial term in the generator's loss."""


class Critic(eqx.Module):
    """A number for what a network knows of a sample: a small perceptron at every position, averaged."""

    mlp: eqx.nn.MLP

    def __init__(self, features: int, *, key: Key) -> None:
        self.mlp = eqx.nn.MLP(features, "scalar", 64, 2, jax.nn.silu, key=key)

    def __call__(self, hidden: Float[Array, "*space c"]) -> Scalar:
        h = hidden.reshape(-1, hidden.shape[-1])
        h = h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)
        return jnp.mean(jax.vmap(self.mlp)(h))


def seer(scene: Scene, name: str) -> Any:
    """The model with whose features critics judge: the teacher or a player."""
    return scene.teacher if name == "teacher" else scene.models[name]


def verdict(critic: Judge, model: Model, point: Point) -> Scalar:
    """What a critic makes of a point, by the features of a model."""
    return critic(model.hidden(point.x_t, point.t, point.cond))


def made(
    generator: Model, scene: Scene, sample: Sample, starts: Starts, *, key: Key
) -> Float[Array, "*shape"]:
    """What the generator makes in one step, of noise or of the sample noised to where it starts."""
    if starts == FROM_NOISE:
        return generated(generator, sample.x0.shape, sample.cond, key=key)
    k_start, k_noise, process = *jr.split(key), generator.process
    if starts:
        t = rectified_time(process, jr.choice(k_start, jnp.asarray(starts)))
    else:
        t = scene.proposal.sample(process, key=k_start)
    point = noised(process, Sample(sample.x0, sample.cond), t, key=k_noise)
    return generator.denoise(point.x_t, t, sample.cond)


def persuasion(found: Scalar, form: Form) -> Scalar:
    """The generator's term, which falls as the critic's number rises."""
    return jax.nn.softplus(-found) if form == "softplus" else -found


class CriticLoss(AbstractLoss):
    r"""$\max(0, 1 - C(x)) + \max(0, 1 + C(G))$, or with softplus $\log(1 + e^{-C(x)}) + \log(1 + e^{C(G)})$.

    `x` is the sample, `G` made by the generator, and both are noised to one time of the proposal.
    """

    form: Form
    seen_by: str
    starts: Starts = FROM_NOISE

    def __call__(self, model: Judge, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_made, k_time, *k_noise = jr.split(key, 4)
        generator, cond = scene.models["generator"], sample.cond
        x = made(generator, scene, sample, self.starts, key=k_made)
        t = scene.proposal.sample(generator.process, key=k_time)
        true, false = (
            verdict(model, seer(scene, self.seen_by), noised(generator.process, s, t, key=k))
            for s, k in zip((Sample(sample.x0, cond), Sample(x, cond)), k_noise, strict=True)
        )
        bent = jax.nn.softplus if self.form == "softplus" else lambda c: jax.nn.relu(1 + c)
        return LossOutput(bent(-true) + bent(false), {}, generator.process.ratio(t))


class AdversarialLoss(AbstractLoss):
    r"""A loss plus $\lambda$ times $-C(G)$, or with softplus $\log(1 + e^{-C(G)})$.

    Without a loss it is that term alone.
    """

    inner: AbstractLoss | None
    weight: float
    form: Form
    seen_by: str
    starts: Starts = FROM_NOISE

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_inner, k_made, k_time, k_noise = jr.split(key, 4)
        x = made(model, scene, sample, self.starts, key=k_made)
        t = scene.proposal.sample(model.process, key=k_time)
        point = noised(model.process, Sample(x, sample.cond), t, key=k_noise)
        found = verdict(scene.models["critic"], seer(scene, self.seen_by), point)
        term = persuasion(found, self.form)
        if self.inner is None:
            return LossOutput(term, {"critic": found}, model.process.ratio(t))
        out = self.inner(model, scene, sample, key=k_inner)
        metrics = out.metrics | {"critic": found}
        return LossOutput(out.value + self.weight * term, metrics, out.ratio)


def judged(
    config: AdversarialOptions, loss: AbstractLoss, *, seen_by: str, starts: Starts = FROM_NOISE
) -> AbstractLoss:
    """A loss with the adversarial term, if the options ask for one."""
    if config.gan == "none":
        return loss
    refuse_strengths(config)
    return AdversarialLoss(loss, config.gan_weight, config.gan, seen_by, starts)


def refuse_strengths(config: Any) -> None:
    """Raises `ValueError` with guidance strengths to draw: the samples that critics judge are told none."""
    if strengths := getattr(config, "guidance_range", ()):
        raise ValueError(
            f"gan='{config.gan}' and guidance_range={strengths}: the critic judges samples of one strength; "
            "leave one of the two out"
        )


def critic(
    config: Any, *, seen_by: str, updates: int = 1, starts: Starts = FROM_NOISE
) -> Mapping[str, Player]:
    """The critic as a player, if the options ask for one."""
    if config.gan == "none":
        return {}

    def build_loss(config: Any, context: Context, *, key: Key) -> CriticLoss:
        return CriticLoss(config.gan, seen_by, starts)

    build = partial(build_critic, seen_by=seen_by)
    return {"critic": Player(build_loss, build, updates=updates)}


def build_critic(config: Any, context: Context, *, seen_by: str, key: Key) -> Critic:
    """A critic of the features of the teacher, or of a copy of the recipe's model."""
    model: Any = context.teacher
    if seen_by != "teacher":
        model = Model(
            parameterization=context.parameterization,
            network=context.network,
            noise_labels=context.noise_labels,
        )
    cond = Conditioning(jnp.zeros((), jnp.int32) if context.data.num_classes else None)
    x, t = jnp.zeros(context.data.shape), jnp.ones(())
    seen = eqx.filter_eval_shape(lambda x, t: model.hidden(x, t, cond), x, t)
    return Critic(seen.shape[-1], key=key)
