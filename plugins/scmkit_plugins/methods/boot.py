"""BOOT: the path that a noise takes, learned without data, each point of it from the one before."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Lt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import inv_ddim
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._inversion import time_on_grid
from scmkit_plugins.methods._teacher_tangent import build_teacher_tangent


@dataclass(frozen=True)
class Options:
    """Options of data-free distillation by bootstrapping."""

    step: Annotated[float, Gt(0), Lt(1)] = 0.04
    """Length of the teacher's step, as a part of the whole path in TrigFlow's angle."""
    boundary: Annotated[float, Ge(0)] = 1.0
    """Weight of the loss at the noise, where the path begins."""


class BOOTLoss(AbstractLoss):
    r"""$\|y_s - y_t^- - \delta\,(D(x_t^-, t) - y_t^-)\|^2 / (D c_{out}^2 \delta^2)$ on a path $G(z, T, t)$.

    $y_t = (x_t - \sigma_t \varepsilon) / \alpha_t$ is the signal on the path of one noise. A DDIM step of the
    teacher from `t` to `s` moves it by $\delta\,(D - y_t)$, with
    $\delta = 1 - \alpha_t \sigma_s / (\sigma_t \alpha_s)$, and as the noise cancels in
    $y_t + (y_s - y_t) / \delta$, this is the inverted DDIM step from $x_t$ to $x_s$. The gradient goes
    through $x_s$ alone. At the noise, where the path begins, the model's denoised sample is to be the
    teacher's. No data are looked at, but for their shape and their labels (arXiv 2306.05544, Section 3).
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_z, k_dropout = jr.split(key, 3)
        process, param, cond = model.process, model.parameterization, sample.cond
        step, T, shape = self.options.step, process.t_max, sample.x0.shape
        u = step + (1 - step) * jr.uniform(k_time)
        t, s = (time_on_grid(param, v, 1) for v in (u, u - step))
        z = process.prior(shape, key=k_z)

        def error(f: Float[Array, "*shape"], x: Float[Array, "*shape"], t: Scalar) -> Scalar:
            """How far `f` is from the teacher's denoised sample, as a square of the network's."""
            denoised = process.denoised_from_velocity(scene.tangent(Point(z, z, x, t, cond)), x, t)
            gap = (f - jax.lax.stop_gradient(denoised)) / param.coefficients(t).out
            return jnp.mean(gap**2)

        x_t = jax.lax.stop_gradient(model.jump(z, T, t, cond, key=k_dropout))
        x_s = model.jump(z, T, s, cond, key=k_dropout)
        bootstrap = error(inv_ddim(process, x_t, x_s, t, s), x_t, t)
        first = param.denoise(model.raw(z, T, cond, s=T, key=k_dropout), z, T)
        boundary = error(first, z, T)
        value = bootstrap + self.options.boundary * boundary
        metrics = {"bootstrap": bootstrap, "boundary": boundary}
        return LossOutput(value, metrics, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> BOOTLoss:
    return BOOTLoss(config)


plugin = Plugin(
    name="boot",
    summary="data-free distillation with bootstrapping (arXiv 2306.05544)",
    provides={Slot.loss: build_loss, Slot.tangent: build_teacher_tangent},
    config=Options,
    off_path=lambda config: True,
    suggests={Slot.sampler: "flow-map"},
    settings={"flow-map.steps": (1,), "train.lr": 1e-4},
    makes="generator",
    starts_from="teacher",
    noise_labels=2,
)
