"""Variational score distillation, alone or summed with consistency distillation."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Gt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractLoss, AbstractParameterization, LossOutput, Sample, Scene
from scmkit.losses import LogWeight
from scmkit.models.model import Model
from scmkit.plugin import Context
from scmkit.sampling import angle_of
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._matching import (
    MatchingLoss,
    MatchingOptions,
    Seen,
    one_step,
)
from scmkit_plugins.processes.log_normal import LogNormal


@dataclass(frozen=True)
class Options(MatchingOptions):
    """Options of variational score distillation. The recipe's noise levels are those of the fake score."""

    mean: float = 0.4
    """Mean of the log noise-to-signal ratio at which the scores are compared."""
    std: Annotated[float, Gt(0)] = 2.0
    """Standard deviation of the same."""


class VSDLoss(AbstractLoss):
    r"""$\frac{e^{w_\psi(t)}}{D} \| x - x^- + (D_{fake} - D_{real})(x_t, t) / \sin\theta \|^2 - w_\psi(t)$.

    $\theta$ is TrigFlow's time of $t$. In TrigFlow it is the paper's
    $\sigma_d (F(z) - F^-(z) - F_{real} + F_{fake})$, and the gradient, up to a weight of $t$ that the
    learned $w_\psi$ adapts, that of $\int KL(q_t \| p_t)$ (arXiv 2410.11081, Appendix C).
    """

    log_weight: LogWeight
    matching: MatchingLoss

    def __call__(self, model: Model, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        out = self.matching(model, scene, sample, key=key)
        t = model.process.time_at(out.ratio)
        w = self.log_weight(model.parameterization.coefficients(t).noise)
        return LossOutput(2 * jnp.exp(w) * out.value - w, out.metrics, out.ratio)


def by_angle(param: AbstractParameterization, x: Float[Array, "*shape"], it: Seen) -> Scalar:
    r"""The weight of TrigFlow's velocities, $1 / \sin\theta$."""
    return 1 / jnp.sin(angle_of(param, it.point.t))


def build_loss(config: Options, context: Context, *, key: Key) -> VSDLoss:
    proposal = LogNormal(config.mean, config.std)
    matching = MatchingLoss(by_angle, config.guidance_range, proposal=proposal)
    return VSDLoss(LogWeight(context.embedding), matching)


plugin = one_step(
    "vsd",
    "variational score distillation with adaptive weights (arXiv 2410.11081, Appendix C)",
    Options,
    build_loss,
    settings={"train.lr": 1e-4},
)
