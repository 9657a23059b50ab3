"""Progressive distillation: a student that takes half its teacher's steps, again and again, in one run."""

from dataclasses import dataclass
from typing import Annotated

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import ddim, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Follower, Plugin, Slot
from scmkit.settings import TrainingSettings
from scmkit.types import Key
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._inversion import (
    AtStages,
    inverted,
    signal_to_noise,
    stage_ends,
    time_on_grid,
)


@dataclass(frozen=True)
class Options:
    """Options of progressive distillation."""

    first: Annotated[int, Ge(1), Le(FINEST)] = 8
    """Steps of the first student; each stage halves them, down to `last`."""
    last: Annotated[int, Ge(1)] = 1
    """Steps of the last student."""

    def __post_init__(self) -> None:
        times = self.first // self.last
        if self.first != self.last * times or times.bit_count() != 1:
            raise ValueError(f"first={self.first} must be last={self.last} times a power of two")


def stages(config: Options, train: TrainingSettings) -> tuple[int, ...]:
    """The steps at which the student becomes the teacher."""
    return stage_ends(train.steps, (config.first // config.last).bit_length())


class ProgressiveLoss(AbstractLoss):
    r"""$\max(SNR, 1)\, \|f(x_t, t) - D^*\|^2 / D$: a DDIM step with $D^*$ leads as far as two of the teacher.

    On a grid of `n` steps equal in TrigFlow's angle (the cosine schedule), from $t_i$ over the middle to
    $t_{i-1}$ (arXiv 2202.00512, Algorithm 2 and Appendix G; $SNR = (\sigma_d \alpha / \sigma)^2$).
    """

    options: Options
    ends: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_step, k_noise, k_dropout = jr.split(key, 3)
        process, param, teacher = model.process, model.parameterization, scene.followers["teacher"]
        halvings = jnp.sum(scene.step >= jnp.asarray(self.ends, jnp.int32))
        n = self.options.first // 2**halvings
        i, n = (a.astype(jnp.float32) for a in (jr.randint(k_step, (), 0, n), n))
        t, middle, end = (time_on_grid(param, i + j, n) for j in (1.0, 0.5, 0.0))
        point = noised(process, sample, t, key=k_noise)
        first = teacher.denoise(point.x_t, t, point.cond)
        x = ddim(process, point.x_t, first, t, middle)
        x = ddim(process, x, teacher.denoise(x, middle, point.cond), middle, end)
        f, target = inverted(model, point, x, end, key=k_dropout)
        mse = jnp.mean((f - target) ** 2)
        weight = jnp.maximum(signal_to_noise(param, t), 1)
        return LossOutput(weight * mse, {"mse": mse}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> ProgressiveLoss:
    return ProgressiveLoss(config, stages(config, context.train))


plugin = Plugin(
    name="progressive-distillation",
    summary="progressive distillation, all halvings in one run (arXiv 2202.00512)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=Options,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},  # Its steps are those of the last stage's grid.
    settings=lambda config: {
        "flow-map.steps": (config.last,),
        "train.lr": 1e-4,
        "train.schedule": "linear",
        "train.clip": 1.0,
    },
    makes="generator",
    starts_from="teacher",
    # Or what an earlier run has distilled, whose steps are those of the grid that this one halves.
    taught_by=lambda config: ("diffusion", "generator"),
    followers=lambda config, train: {
        "teacher": Follower(AtStages(stages(config, train)), start="teacher")
    },
    stages=stages,
)
