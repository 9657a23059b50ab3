"""Diffusion training: what makes a teacher."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
from annotated_types import Ge, Le

from scmkit.interfaces import AbstractLoss, Conditioning, LossOutput, Sample, Scene
from scmkit.losses import LogWeight, noised
from scmkit.models.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._data_tangent import build_data_tangent


@dataclass(frozen=True)
class Options:
    """Options of diffusion training."""

    label_dropout: Annotated[float, Ge(0), Le(1)] = 0.1
    """Share of samples trained without their label, which guidance needs."""


class DiffusionLoss(AbstractLoss):
    r"""Regression of the model's velocity onto the tangent, with learned uncertainty weighting.

    $$e^{w(t)} \tfrac1D \|F - F^*\|^2 - w(t), \qquad
      F - F^* = \frac{v_\theta(x_t, t) - dx_t/dt}{(\alpha' - \sigma'\alpha/\sigma)\, c_{out}}$$

    The velocity is affine in `F`, so in units of the network's output this is the denoising loss of
    every parameterization: EDM's with its weight, flow matching's, and TrigFlow's
    $\|\sigma_d F - (\cos t\, z - \sin t\, x_0)\|^2$ (arXiv 2206.00364, Eq. 8; arXiv 2312.02696,
    Appendix B.2; arXiv 2410.11081, Eq. 3).
    """

    log_weight: LogWeight
    num_classes: int
    options: Options

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        k_time, k_noise, k_dropout, k_label = jr.split(key, 4)
        process, param = model.process, model.parameterization
        t = scene.proposal.sample(process, key=k_time)
        point = noised(process, sample, t, key=k_noise)
        target = jax.lax.stop_gradient(scene.tangent(point))
        cond = point.cond
        if cond.label is not None:
            dropped = jr.bernoulli(k_label, self.options.label_dropout)
            cond = Conditioning(jnp.where(dropped, self.num_classes, cond.label))
        c = param.coefficients(t)
        alpha, sigma, d_alpha, d_sigma = process.rates(t)
        per_unit = (d_alpha - d_sigma * alpha / sigma) * c.out
        error = (model.velocity(point.x_t, t, cond, key=k_dropout) - target) / per_unit
        mse = jnp.mean(error**2)
        w = self.log_weight(c.noise)
        return LossOutput(jnp.exp(w) * mse - w, {"mse": mse}, process.ratio(t))


def build_loss(config: Options, context: Context, *, key: Key) -> DiffusionLoss:
    return DiffusionLoss(
        log_weight=LogWeight(context.embedding),
        num_classes=context.data.num_classes,
        options=config,
    )


plugin = Plugin(
    name="diffusion",
    summary="diffusion or flow-matching training with learned weighting: makes a teacher",
    provides={Slot.tangent: build_data_tangent, Slot.loss: build_loss},
    config=Options,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "pf-ode"},
    drops_labels=lambda config: config.label_dropout > 0,
    settings={"log-normal.mean": -0.8, "log-normal.std": 1.6},
    makes="diffusion",
)
