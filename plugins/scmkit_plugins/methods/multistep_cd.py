"""Multistep consistency distillation: between a consistency model, in one step, and a diffusion model."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le
from jaxtyping import Array, Int

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._inversion import addim, inverted, jumped, signal_to_noise, time_on_grid
from scmkit_plugins.methods._teacher_tangent import build_teacher_tangent


@dataclass(frozen=True)
class Options:
    """Options of multistep consistency distillation."""

    segments: Annotated[int, Ge(1)] = 4
    """Segments of the path, equal in TrigFlow's angle, and steps in which the model samples."""
    first: Annotated[int, Ge(1)] = 64
    """Steps of the teacher over the whole path at first."""
    last: Annotated[int, Ge(1), Le(FINEST)] = 1280
    """Steps of the teacher at last."""
    anneal: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of training in which the one becomes the other, exponentially."""
    variance: Annotated[float, Ge(0)] = 0.1
    """Variance of the data that a teacher's step makes up for (aDDIM); 0 is DDIM."""

    def __post_init__(self) -> None:
        if not self.segments <= self.first <= self.last:
            raise ValueError(
                f"segments={self.segments}, first={self.first} and last={self.last} must ascend"
            )


class MultistepLoss(AbstractLoss):
    r"""$(SNR + 1)\; d(f(x_t, t), D^*)$: a DDIM step with $D^*$ leads to the start of the segment of `t`.

    The teacher takes one of its steps, by adjusted DDIM with the variance $v = 0.1 / (2 + \alpha^2/\sigma^2)$
    (for data of deviation 1/2), and from there the model itself one DDIM step to the segment's start; $D^*$
    inverts the two together (arXiv 2403.06807, Section 3). One segment is consistency distillation, as many
    as the teacher has steps regression on the teacher.
    """

    distance: AbstractDistance
    options: Options

    def micro_steps(self, progress: Scalar) -> Int[Array, ""]:
        """Steps of the teacher in a segment."""
        o, share = self.options, jnp.minimum(progress / self.options.anneal, 1)
        total = o.first * (o.last / o.first) ** share
        return jnp.maximum(jnp.round(total / o.segments), 1).astype(int)

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_segment, k_micro, k_noise, k_dropout = jr.split(key, 4)
        o, process, param = self.options, model.process, model.parameterization
        n = self.micro_steps(scene.progress)
        last = n * jr.randint(k_segment, (), 0, o.segments)
        left = jr.randint(k_micro, (), 0, n)
        points = (last + left + 1, last + left, last)
        t, r, end = (time_on_grid(param, i, n * o.segments) for i in points)
        point = noised(process, sample, t, key=k_noise)
        scale = (2 * param.sigma_data) ** 2
        variance = o.variance * scale / (2 + scale / process.ratio(t) ** 2)
        there = addim(process, scene.tangent, point, r, variance)
        x_end = jumped(model, there, end, left == 0, key=k_dropout)
        f, target = inverted(model, point, x_end, end, key=k_dropout)
        distance = self.distance(f, target)
        value = (signal_to_noise(param, t) + 1) * distance
        return LossOutput(value, {"distance": distance}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> MultistepLoss:
    return MultistepLoss(context.distance, config)


plugin = Plugin(
    name="multistep-cd",
    summary="multistep consistency distillation with adjusted DDIM (arXiv 2403.06807)",
    provides={Slot.loss: build_loss, Slot.tangent: build_teacher_tangent},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    suggests={Slot.sampler: "flow-map"},
    settings=lambda config: {
        "flow-map.steps": (config.segments,),
        "train.lr": 1e-4,
        "l2.squared": False,
    },
    makes="generator",
    starts_from="teacher",
)
