"""FSF-DMD: distribution matching without a fake score, by the velocity of the generator's own flow map."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr

from scmkit.interfaces import AbstractLoss, LossOutput, Point, Sample, Scene
from scmkit.losses import Derivative, lagrangian, surrogate
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._tangent import told
from scmkit_plugins.methods.scd import TeacherOptions, build_tangent, conditions


@dataclass(frozen=True)
class Options(TeacherOptions):
    """Options of distribution matching without a fake score."""

    derivative: Derivative = "jvp"
    """How the network is differentiated in the time where its jump ends."""


class PseudoVelocityLoss(AbstractLoss):
    r"""$(D_{fake} - D_{real}) / n\overline{|x_s/\alpha - D_{real}|}$ as the gradient in $x_s = G(z, T, s)$.

    The fake score is that of the generator's endpoint velocity, without gradient: $D_{fake}$ is the denoised
    sample whose PF-ODE velocity at $x_s$ is $\partial_s G(z, T, s)$, at which the generated $x_s$ moves with
    $s$. Its mean given $x_s$ carries the generated distributions along; that these are noised versions of
    one another is assumed, and true of the exact flow map (arXiv 2605.19256). The gradient goes into $x_s$
    alone, so that what is learned goes down from the noise; no network but the generator is trained.
    """

    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_z, k_time, k_dropout = jr.split(key, 3)
        o, process = self.options, model.process
        sample = told(sample, o.guidance_range, key=key)
        z, s = process.prior(sample.x0.shape, key=k_z), scene.proposal.sample(process, key=k_time)
        start = Point(sample.x0, z, z, process.t_max.astype(s.dtype), sample.cond)
        x, dx = lagrangian(model, start, s, derivative=o.derivative, key=k_dropout)
        still, dx = jax.lax.stop_gradient((x, dx))
        velocity = scene.tangent(Point(sample.x0, z, still, s, sample.cond))
        real, fake = (process.denoised_from_velocity(v, still, s) for v in (velocity, dx))
        away = jnp.mean(jnp.abs(still / process.alpha(s) - real))
        field = (fake - real) / jnp.maximum(away, 1e-5)
        size = jnp.sqrt(jnp.mean(field**2))
        return LossOutput(surrogate(x, field), {"field": size}, process.ratio(s))


def build_loss(config: Options, context: Context, *, key: Key) -> PseudoVelocityLoss:
    return PseudoVelocityLoss(config)


plugin = Plugin(
    name="fsf-dmd",
    summary="distribution matching without a fake score, of a flow map (arXiv 2605.19256)",
    provides={Slot.loss: build_loss, Slot.tangent: build_tangent},
    config=Options,
    off_path=lambda config: True,
    conditions=conditions,
    suggests={Slot.sampler: "flow-map"},
    settings={
        "flow-map.steps": (1,),
        "log-normal.mean": -0.8,
        "log-normal.std": 1.6,
        "train.lr": 1e-5,
    },
    makes="generator",
    starts_from="teacher",
    noise_labels=2,
)
