"""CMT: consistency mid-training, regression along a teacher's paths, before a student's own training."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le
from jaxtyping import Array

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import arrived, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar, sum_dtype
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._pair import Solver, earlier, on_grid
from scmkit_plugins.methods._tangent import told
from scmkit_plugins.methods.scd import TeacherOptions, build_tangent, conditions, taught_by


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Options of consistency mid-training."""

    steps: Annotated[int, Ge(1), Le(FINEST)] = 16
    """Steps of the teacher from noise to data; each gives a point of the path to learn from."""
    solver: Solver = "heun"
    """The teacher's step from one point of the path to the next."""


class CMTLoss(AbstractLoss):
    r"""$\frac1M \sum_{i=1}^M d(f(\hat x_{t_i}, t_i), \hat x_{t_0})$ along the path of a teacher's solver.

    The path starts at $t_M = t_{max}$ and goes down Karras's grid, the last step to the data, so that every
    target is fixed and the same for the whole path: no student looks at itself (arXiv 2509.24526, Section 3).
    Each sample of a batch is a path of `steps` points. Their code has DPM-Solver++ and LPIPS.
    """

    distance: AbstractDistance
    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_noise, k_dropout = jr.split(key)
        o, process, param = self.options, model.process, model.parameterization
        sample = told(sample, o.guidance_range, key=key)
        t_max = process.t_max.astype(sum_dtype(sample.x0.dtype))
        start = noised(process, sample, t_max, key=k_noise)

        def step(point: Point, i: Scalar) -> tuple[Point, Point]:
            ratio = jnp.where(i > 0, on_grid(param, i, o.steps), 0)
            return earlier(scene.tangent, point, process.time_at(ratio), o.solver), point

        end, path = jax.lax.scan(step, start, jnp.arange(o.steps - 1.0, -1.0, -1.0))

        def off(point: Point, key: Key) -> Array:
            return self.distance(arrived(model, point, key=key), end.x_t)

        distance = jnp.mean(jax.vmap(off)(path, jr.split(k_dropout, o.steps)))
        return LossOutput(distance, {"distance": distance}, process.ratio(start.t))


def build_loss(config: Options, context: Context, *, key: Key) -> CMTLoss:
    return CMTLoss(context.distance, config)


plugin = Plugin(
    name="cmt",
    summary="consistency mid-training along a teacher's paths (arXiv 2509.24526)",
    provides={Slot.tangent: build_tangent, Slot.loss: build_loss},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    conditions=conditions,
    suggests={Slot.sampler: "consistency"},
    settings={"train.lr": 2e-4, "train.optimizer": "radam", "train.ema": "half-life:90000"},
    makes="consistency",
    starts_from="teacher",
    taught_by=taught_by,
)
