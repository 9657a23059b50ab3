"""Discrete-time consistency training with the pseudo-Huber metric."""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Gt

from scmkit.interfaces import AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import arrived, noised
from scmkit.models.model import Model
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Key, Scalar


class HuberConsistencyLoss(AbstractLoss):
    r"""The consistency function at two times of one path, compared by the pseudo-Huber metric.

    With the noise-to-signal ratios $\rho_r = (1 - \delta)\, \rho_t$ of the two times and `f-` without
    gradient,

    $$\frac{1}{\rho_t - \rho_r} \Big( \sqrt{\|f(x_t, t) - f^-(x_r, r)\|^2 + c^2} - c \Big),
      \qquad c = \mathrm{constant} \cdot \sqrt D.$$

    The gap $\delta$ is halved `halvings` times in the course of training, down to the continuous-time
    limit (pseudo-Huber: arXiv 2310.14189, Section 3.3; shrinking gap and weight: arXiv 2406.14548).
    `x_r` comes from the tangent slot: the same noise for `sct`, a DDIM step of the teacher for `scd`.
    """

    gap: Annotated[float, Gt(0)] = 0.5
    """First relative gap between the two noise-to-signal ratios, below 1."""
    halvings: Annotated[int, Ge(0)] = 6
    """Times the gap is halved during training."""
    constant: Annotated[float, Gt(0)] = 0.00054
    """The pseudo-Huber constant for each of the sample's values, times the root of their number."""

    def __check_init__(self) -> None:
        if self.gap >= 1:
            raise ValueError(f"gap={self.gap} must be below 1")

    def gap_at(self, progress: Scalar) -> Scalar:
        """The gap at a share of training, from 0 to 1."""
        done = jnp.minimum(jnp.floor(progress * (self.halvings + 1)), self.halvings)
        return self.gap * 0.5**done

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_noise, k_dropout = jr.split(key, 3)
        process = model.process
        t = scene.proposal.sample(process, key=k_time)
        ratio, gap = process.ratio(t), self.gap_at(scene.progress)
        here = noised(process, sample, t, key=k_noise)
        there = scene.tangent.advance(here, process.time_at((1 - gap) * ratio))
        # One key for both: the two passes must drop the same features.
        target = jax.lax.stop_gradient(arrived(model, there, key=k_dropout))
        square = jnp.sum((arrived(model, here, key=k_dropout) - target) ** 2)
        c = self.constant * math.sqrt(sample.x0.size)
        distance = jnp.sqrt(square + c**2) - c
        return LossOutput(distance / (gap * ratio), {"distance": distance, "gap": gap}, ratio)


plugin = Plugin(
    name="huber-ct",
    summary="discrete-time consistency training, pseudo-Huber metric, shrinking gap",
    provides={Slot.loss: itself},
    config=HuberConsistencyLoss,
    # What fits the loss where the user names nothing: who moves x_t, who samples, where training looks.
    suggests={Slot.tangent: "sct", Slot.sampler: "consistency"},
    settings={"log-normal.mean": -1.1, "log-normal.std": 2.0, "train.lr": 1e-4},
    # What is left behind, and what it starts from: the weights of a diffusion model.
    uses=(Slot.coupling,),
    makes="consistency",
    starts_from="weights",
)
