"""Continuous-time consistency distillation and training as first proposed, with and without stop-gradient."""

from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._teacher_tangent import build_teacher_tangent

Objective = Literal["inner-product", "square", "norm"]


@dataclass(frozen=True)
class Options:
    """Options of continuous-time consistency distillation."""

    objective: Objective = "norm"
    """`inner-product`, with stop-gradient; or, without, the tangent's `square` or its `norm`."""


@dataclass(frozen=True)
class TrainingOptions:
    """Options of continuous-time consistency training."""

    objective: Objective = "inner-product"
    """As of `continuous-cd`; without stop-gradient the data's tangent leads to another function."""


class ContinuousLoss(AbstractLoss):
    r"""What the discrete losses become as the two times draw together, in the limit of many.

    With the tangent $\dot f = df/d\rho$ along the path, $\rho = \sigma/\alpha$, and the Hessian $H$ of the
    distance where its arguments are equal (2 for the square of L2):

    | `objective` | value |
    | --- | --- |
    | `inner-product` | $f^T H \dot f^-$, of which only the gradient means something |
    | `square` | $\tfrac12 \dot f^T H \dot f$, for L2 $\lVert \dot f \rVert^2$ |
    | `norm` | its root, for L2 $\lVert \dot f \rVert$ |

    The first two are the limits of the losses with and without stop-gradient (arXiv 2303.01469, Appendix
    B). The last is what the code trains (https://github.com/openai/consistency_models_cifar10,
    `jcm/losses.py`), at $\rho = u^7$ with `u` uniform: the proposal `uniform` over `karras`. With a teacher's
    tangent all have one solution. The data's is noisy, and without stop-gradient its noise is minimised,
    too: then only `inner-product` has the gradient that a teacher's tangent would give.
    """

    distance: AbstractDistance
    objective: Objective

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        process, one = model.process, jnp.ones(())
        t = scene.proposal.sample(process, key=k_time)
        point = noised(process, sample, t, key=k_noise)
        dx = jax.lax.stop_gradient(scene.tangent(point))
        ratio, speed = jax.jvp(process.ratio, (t,), (one,))

        def f(x: Array, t: Array) -> Array:
            return model.denoise(x, t, point.cond, key=k_dropout)

        end, df = eqx.filter_jvp(f, (point.x_t, t), (dx / speed, one / speed))
        size = jnp.sqrt(jnp.mean(jax.lax.stop_gradient(df) ** 2))
        if self.objective == "inner-product":
            df = jax.lax.stop_gradient(df)
        curved = hessian_product(self.distance, end, df)
        if self.objective == "inner-product":
            return LossOutput(jnp.sum(end * curved), {"df_dratio": size}, ratio)
        value = 0.5 * jnp.sum(df * curved)
        if self.objective == "norm":  # The root has no derivative at 0.
            value = jnp.where(value > 0, jnp.sqrt(jnp.where(value > 0, value, 1.0)), 0.0)
        return LossOutput(value, {"df_dratio": size}, ratio)


def hessian_product(
    distance: AbstractDistance, x: Float[Array, "*shape"], v: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The Hessian at `y = x` of `distance(y, x)`, times `v`."""
    x = jax.lax.stop_gradient(x)
    return jax.jvp(jax.grad(lambda y: distance(y, x)), (x,), (v,))[1]


def build_loss(config: Any, context: Context, *, key: Key) -> ContinuousLoss:
    with jax.ensure_compile_time_eval():
        some = jnp.ones(context.data.shape)
        curved = bool(jnp.any(hessian_product(context.distance, some, some)))
    if not curved:
        raise ValueError(
            "the distance is not curved where its arguments are equal, which leaves nothing to train on; "
            "take l2 (squared), pseudo-huber or another smooth one"
        )
    return ContinuousLoss(context.distance, config.objective)


SETTINGS = {"uniform.over": "karras", "uniform.ratio_min": 2e-3, "train.optimizer": "radam"}

distillation = Plugin(
    name="continuous-cd",
    summary="continuous-time consistency distillation as first proposed (arXiv 2303.01469)",
    provides={Slot.loss: build_loss, Slot.tangent: build_teacher_tangent},
    config=Options,
    differentiates=True,
    uses=(Slot.distance, Slot.coupling),
    suggests={Slot.sampler: "consistency", Slot.proposal: "uniform"},
    settings=SETTINGS | {"train.lr": 1e-3},
    makes="consistency",
    starts_from="teacher",
)

training = Plugin(
    name="continuous-ct",
    summary="continuous-time consistency training as first proposed (arXiv 2303.01469)",
    provides={Slot.loss: build_loss, Slot.tangent: build_data_tangent},
    config=TrainingOptions,
    differentiates=True,
    uses=(Slot.distance, Slot.coupling),
    suggests={Slot.sampler: "consistency", Slot.proposal: "uniform"},
    settings=SETTINGS | {"train.lr": 5e-6},
    makes="consistency",
    starts_from="weights",
)
