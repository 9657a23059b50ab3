"""PID: the path that a noise takes, learned without data, as a solution of the teacher's ODE."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import inv_ddim
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.sampling import Grid, angle_of, ratio_on_grid
from scmkit.types import Key
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._teacher_tangent import build_teacher_tangent


@dataclass(frozen=True)
class Options:
    """Options of physics-informed distillation."""

    points: Annotated[int, Ge(3), Le(FINEST)] = 250
    """Points of the grid on which the path's derivative is a difference."""
    grid: Grid = "karras"
    """What the points are equal in."""
    residual: Literal["denoised", "velocity"] = "denoised"
    """What is compared with the teacher's: the denoised sample, as published, or TrigFlow's velocity."""


class PIDLoss(AbstractLoss):
    r"""$d(y - \rho\, \Delta y / \Delta \rho,\; D(x_t, t)) / c_{out}^2$ on a path $x_t = G(z, T, t)$.

    On a solution of the teacher's ODE, with $y = x_t / \alpha$ and the noise-to-signal ratio $\rho$,
    $y - \rho\, dy/d\rho$ is what the teacher denoises it to. By a difference to the next point of the grid it
    is the inverted DDIM step between the two. The gradient goes through both points, and none through the
    teacher; $1/c_{out}^2$ is EDM's weight. No data are looked at, but for their shape and their labels
    (arXiv 2402.14818, Section 3; https://github.com/pantheon5100/pid_diffusion).

    Where there is little noise $D$ follows $y$, and a gradient that takes $D$ for given pulls the path's end
    to where it is. The same equation in the velocity, $d(\Delta x / \Delta \theta,\; v) / \sigma_d^2$ in
    TrigFlow's coordinates, has that cancelled in $v$, and is learned much faster.
    """

    distance: AbstractDistance
    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_point, k_z, k_dropout = jr.split(key, 3)
        process, param, cond = model.process, model.parameterization, sample.cond
        o, last = self.options, self.options.points - 1
        i = jr.randint(k_point, (), 0, last + 1)
        # The last point has no next one, and takes the one before it.
        pair = jnp.stack([i, jnp.where(i == last, i - 1, i + 1)])
        t, s = (process.time_at(ratio_on_grid(param, j / last, grid=o.grid)) for j in pair)
        z = process.prior(sample.x0.shape, key=k_z)
        x_t, x_s = (model.jump(z, process.t_max, r, cond, key=k_dropout) for r in (t, s))
        here = jax.lax.stop_gradient(x_t)
        velocity = scene.tangent(Point(z, z, here, t, cond))
        denoised = process.denoised_from_velocity(velocity, here, t)
        denoised = jax.lax.stop_gradient(denoised)
        if o.residual == "denoised":
            found, sought = inv_ddim(process, x_t, x_s, t, s), denoised
            scale = param.coefficients(t).out
        else:
            angle, before = angle_of(param, t), angle_of(param, s)
            # In TrigFlow's scale.
            x_t, x_s = (
                x_t * jnp.cos(angle) / process.alpha(t),
                x_s * jnp.cos(before) / process.alpha(s),
            )
            found = (x_t - x_s) / (angle - before)
            sought = (jnp.cos(angle) * jax.lax.stop_gradient(x_t) - denoised) / jnp.sin(angle)
            scale = param.sigma_data
        distance = self.distance(found, sought)
        return LossOutput(distance / scale**2, {"distance": distance}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> PIDLoss:
    return PIDLoss(context.distance, config)


plugin = Plugin(
    name="pid",
    summary="physics-informed distillation, without data (arXiv 2402.14818)",
    provides={Slot.loss: build_loss, Slot.tangent: build_teacher_tangent},
    config=Options,
    off_path=lambda config: True,
    differentiates=True,
    uses=(Slot.distance,),
    suggests={Slot.sampler: "flow-map"},
    settings={"flow-map.steps": (1,), "train.lr": 2e-4, "train.optimizer": "radam"},
    makes="generator",
    starts_from="teacher",
    noise_labels=2,
)
