"""CD: discrete consistency distillation, one solver step of a teacher at a time."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le, Lt
from jaxtyping import Array, Int

from scmkit.interfaces import (
    AbstractDistance,
    AbstractEMA,
    AbstractLoss,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.models.model import Model
from scmkit.plugin import Context, Follower, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._pair import Solver, any_interval, separation_on_grid
from scmkit_plugins.methods._tangent import told
from scmkit_plugins.methods.scd import TeacherOptions, build_tangent, conditions, taught_by


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Options of discrete consistency distillation."""

    points: Annotated[int, Ge(2), Le(FINEST)] = 18
    """Points of the grid of noise levels, the paper's N."""
    solver: Solver = "heun"
    """The teacher's step from one point of the grid to the next."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Decay of the target network; 0 is the newest weights."""


class ConstantEMA(AbstractEMA):
    """The same decay at every update."""

    constant: float

    def gain(self, step: Int[Array, ""]) -> Scalar:
        return jnp.asarray(1 - self.constant, jnp.float32)


class CDLoss(AbstractLoss):
    r"""$d(f(x_{t_{n+1}}, t_{n+1}), f^-(\hat x_{t_n}, t_n))$ with $n$ uniform on Karras's grid of $N$ points.

    $\hat x_{t_n}$ is where one solver step of the teacher leads (arXiv 2303.01469, Algorithm 2). `f` is the
    newest student or one that lags behind it. The paper has N = 18 and the newest weights on CIFAR-10, 40
    and a decay of 0.95 on ImageNet, and LPIPS as the distance.
    """

    distance: AbstractDistance
    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_grid, k_pair = jr.split(key)
        o, n = self.options, self.options.points - 1
        i = any_interval(n, key=k_grid)
        sample = told(sample, o.guidance_range, key=key)
        target = scene.followers.get("target", model)
        distance, ratio, _ = separation_on_grid(
            self.distance, model, target, scene, sample, i, n, solver=o.solver, key=k_pair
        )
        return LossOutput(distance, {"distance": distance}, ratio)


def build_loss(config: Options, context: Context, *, key: Key) -> CDLoss:
    return CDLoss(context.distance, config)


plugin = Plugin(
    name="cd",
    summary="discrete consistency distillation of a teacher (arXiv 2303.01469)",
    provides={Slot.tangent: build_tangent, Slot.loss: build_loss},
    config=Options,
    uses=(Slot.distance, Slot.coupling),
    conditions=conditions,
    suggests={Slot.sampler: "consistency"},
    settings={
        "train.lr": 4e-4,
        "train.optimizer": "radam",
        "train.beta2": 0.999,
        "train.ema": "half-life:3500000",
    },
    makes="consistency",
    starts_from="teacher",
    taught_by=taught_by,
    followers=lambda config, train: (
        {"target": Follower(ConstantEMA(config.decay))} if config.decay else {}
    ),
)
