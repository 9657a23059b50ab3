"""Consistency trajectory models: jumps from two points of one of the teacher's paths."""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractDistance, AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import arrived, heun, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Follower, Plugin, Slot
from scmkit.sampling import time_grid
from scmkit.types import Key
from scmkit_plugins.methods import scd
from scmkit_plugins.methods._adversarial import AdversarialOptions, critic, judged
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._flowmap import Lagging, flow_error
from scmkit_plugins.methods._tangent import told


@dataclass(frozen=True)
class Options(AdversarialOptions, scd.TeacherOptions):
    """Options of consistency trajectory models."""

    points: Annotated[int, Gt(2), Le(FINEST)] = 18
    """Times of the grid, equal in the seventh root of the noise-to-signal ratio."""
    longest: Annotated[int, Ge(1), Le(FINEST)] = 17
    """The most steps of the grid that the solver takes along the teacher's path."""
    solver: Literal["heun", "ddim"] = "heun"
    """How it steps along the tangent."""
    denoising: Annotated[float, Ge(0)] = 1.0
    """Weight of denoising against the distance of the ends of two jumps."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the averaged weights that go on to the data."""


class TrajectoryLoss(AbstractLoss):
    r"""The distance of two jumps at the data, and denoising.

    $$d\big(f^-(G_\theta(x_t, t, s), s),\ f^-(G_{sg}(\hat x_u, u, s), s)\big) +
      \lambda\,|v_\theta - \dot x|^2 / q^2$$

    $t > u \ge s$ are times of a grid, $\hat x_u$ is where a solver leads from $x_t$ along the teacher's
    path, and $f^- = G_{ema}(\cdot, s, 0)$ compares both jumps at the data; the gradient passes through its
    input (arXiv 2310.02279, Section 3). The second term is EDM's denoising loss on the data, at times
    of the recipe's proposal. The paper weighs it by the ratio of the two gradients' norms at the last
    layer; here the weight is given. At $u = s$ the first term is plain distillation, at $s = 0$ that of
    consistency models.
    """

    distance: AbstractDistance
    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_steps, k_time, k_noise, k_other, k_strength, k_dropout = jr.split(key, 6)
        o, process, stop = self.options, model.process, jax.lax.stop_gradient
        times = time_grid(model.parameterization, o.points - 1, grid="karras")
        first, u, last = self.drawn(key=k_steps)
        sample = told(sample, o.guidance_range, key=k_strength)
        here = noised(process, sample, times[first], key=k_noise)

        def step(i: Int[Array, ""], point: Point) -> Point:
            if o.solver == "heun":
                return heun(scene.tangent, point, times[i + 1])
            return scene.tangent.advance(point, times[i + 1])

        def at_data(point: Point) -> Float[Array, "*shape"]:
            s = times[last]
            x = model.jump(point.x_t, point.t, s, point.cond, key=k_dropout)
            there = Point(point.x0, point.eps, x, s, point.cond)
            return arrived(scene.followers["target"], there, key=k_dropout)

        there = jax.lax.fori_loop(first, u, step, here)
        distance = self.distance(at_data(here), stop(at_data(there)))
        other = noised(process, sample, scene.proposal.sample(process, key=k_time), key=k_other)
        dx = process.velocity(other.x0, other.eps, other.t)
        flow = jnp.sum(flow_error(model, other, dx, key=k_dropout) ** 2)
        parts = {"distance": distance, "denoising": flow}
        return LossOutput(distance + o.denoising * flow, parts, process.ratio(here.t))

    def drawn(self, *, key: Key) -> tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]]:
        """Where on the grid, which descends, a jump starts, where the solver stops, and where both end."""
        k_first, k_last, k_steps = jr.split(key, 3)
        first = jr.randint(k_first, (), 0, self.options.points - 1)
        last = jr.randint(k_last, (), first + 1, self.options.points)
        longest = jnp.minimum(self.options.longest, last - first)
        return first, first + jr.randint(k_steps, (), 1, longest + 1), last


def build_loss(config: Options, context: Context, *, key: Key) -> AbstractLoss:
    return judged(config, TrajectoryLoss(context.distance, config), seen_by="teacher", starts=())


plugin = Plugin(
    name="ctm",
    summary="consistency trajectory models, and their GAN if asked for (arXiv 2310.02279)",
    provides={Slot.tangent: scd.build_tangent, Slot.loss: build_loss},
    config=Options,
    conditions=scd.plugin.conditions,
    uses=(Slot.distance, Slot.coupling),
    suggests={Slot.sampler: "flow-map"},
    settings={
        "log-normal.mean": -1.2,
        "log-normal.std": 1.2,
        "train.lr": 4e-4,
        "train.optimizer": "radam",
        "train.beta2": 0.999,
        "train.ema": "half-life:900000",
    },
    makes="flow-map",
    starts_from="teacher",
    taught_by=scd.taught_by,
    noise_labels=2,
    players=lambda config, train: critic(config, seen_by="teacher", starts=()),
    followers=lambda config, train: {"target": Follower(Lagging(config.decay))},
)
