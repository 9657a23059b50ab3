"""TRACT: transitive closure time-distillation, which shortens a path by any factor, taught by itself."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le, Lt
from jaxtyping import Array, Int

from scmkit.interfaces import AbstractEMA, AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Follower, Plugin, Slot
from scmkit.settings import TrainingSettings
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._inversion import (
    AtStages,
    heun_in_ratio,
    inverted,
    jumped,
    signal_to_noise,
    stage_ends,
    time_on_grid,
    time_on_karras_grid,
)
from scmkit_plugins.methods._teacher_tangent import build_teacher_tangent
from scmkit_plugins.methods.scd import TeacherTangent


@dataclass(frozen=True)
class Options:
    """Options of TRACT."""

    schedule: tuple[Annotated[int, Le(FINEST)], ...] = (1024, 32, 1)
    """Steps of the teacher, then those of the student at the end of each phase, who teaches the next one."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Decay of the self-teacher, an average of the student."""
    form: Literal["vp", "edm"] = "vp"
    """DDIM steps of equal angle and the weight max(SNR, 1); or EDM's Heun steps, grid and weight."""

    def __post_init__(self) -> None:
        steps = self.schedule
        if len(steps) < 2 or any(b < 1 or a <= b or a % b for a, b in pairwise(steps)):
            raise ValueError(
                f"schedule {steps}: give two or more numbers, each a part of the one before"
            )
        if self.form == "edm" and steps[-1] > 1:
            raise ValueError(
                f"schedule {steps}: form 'edm' ends in 1 step, no sampler has its grid"
            )


def stages(config: Options, train: TrainingSettings) -> tuple[int, ...]:
    """The steps at which the student becomes the teacher."""
    return stage_ends(train.steps, len(config.schedule) - 1)


class SelfTeacher(AbstractEMA):
    """An average of constant decay."""

    momentum: float

    def gain(self, step: Int[Array, ""]) -> Scalar:
        return jnp.asarray(1 - self.momentum, jnp.float32)


class TractLoss(AbstractLoss):
    r"""$w\, \|f(x_t, t) - D^*\|^2 / D$: a DDIM step with $D^*$ leads to the end of the group that `t` is in.

    A phase from `n` to `m` steps has `m` groups of $n/m$ micro-steps. From a time in a group the teacher
    takes one micro-step, and from there the self-teacher one DDIM step to the group's end; $D^*$ inverts
    the two together (arXiv 2303.04248, Section 3). $w$ is $\max(SNR, 1)$, for EDM $1/c_{out}^2$. The first
    teacher is the tangent's (https://github.com/apple/ml-tract, `tc_distill.py` and `tc_distill_edm.py`,
    less their clipping of $D$ to [-1, 1]).
    """

    options: Options
    ends: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_group, k_micro, k_noise, k_dropout = jr.split(key, 4)
        o, process, param = self.options, model.process, model.parameterization
        phase = jnp.sum(scene.step >= jnp.asarray(self.ends, jnp.int32))
        n, m = (jnp.asarray(o.schedule)[phase + i] for i in (0, 1))
        last = jr.randint(k_group, (), 0, m) * (n // m)
        left = jr.randint(k_micro, (), 0, n // m)
        points = (last + left + 1, last + left, last)
        teacher = scene.tangent
        if self.ends:
            teacher = TeacherTangent(process, scene.followers["teacher"])
        edm, finest = o.form == "edm", o.schedule[0]
        grid = partial(time_on_karras_grid, finest=finest) if edm else time_on_grid
        t, r, end = (grid(param, i, n) for i in points)
        point = noised(process, sample, t, key=k_noise)
        there = heun_in_ratio(process, teacher, point, r) if edm else teacher.advance(point, r)
        weight = 1 / param.coefficients(t).out ** 2
        if not edm:
            weight = jnp.maximum(signal_to_noise(param, t), 1)
        x_end = jumped(scene.followers["self"], there, end, left == 0)
        f, target = inverted(model, point, x_end, end, key=k_dropout)
        mse = jnp.mean((f - target) ** 2)
        return LossOutput(weight * mse, {"mse": mse}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> TractLoss:
    return TractLoss(config, stages(config, context.train))


def followers(config: Options, train: TrainingSettings) -> dict[str, Follower]:
    """The self-teacher, and where there is more than one phase their teacher."""
    lagging = {"self": Follower(SelfTeacher(config.momentum))}
    if ends := stages(config, train):
        lagging["teacher"] = Follower(AtStages(ends), of="ema", start="teacher")
    return lagging


plugin = Plugin(
    name="tract",
    summary="transitive closure time-distillation with a self-teacher (arXiv 2303.04248)",
    provides={Slot.loss: build_loss, Slot.tangent: build_teacher_tangent},
    config=Options,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings=lambda config: {
        "flow-map.steps": config.schedule[-1:],
        "train.lr": 2e-4,
        "train.clip": 1.0,
    },
    makes="generator",
    starts_from="teacher",
    # Or what an earlier run has distilled, whose steps are those of the grid that this one shortens.
    taught_by=lambda config: ("diffusion", "generator"),
    followers=followers,
    stages=stages,
)
