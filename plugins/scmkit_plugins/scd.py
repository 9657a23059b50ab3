"""sCD: consistency distillation, with the tangent from a teacher."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array, Float

from scmkit.conversion import velocity_under
from scmkit.interfaces import AbstractNoiseProcess, AbstractTangentEstimator, Conditioning
from scmkit.model import Model
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins._consistency_loss import ConsistencyOptions, build_loss


class TeacherTangent(AbstractTangentEstimator):
    r"""The teacher's PF-ODE velocity, guided where there are labels.

    $v_u + \omega\,(v_c - v_u)$ with guidance strength $\omega$; 1 is no guidance and costs one pass
    (arXiv 2410.11081, Section 2.2 and Appendix G). The teacher may be of any process.
    """

    process: AbstractNoiseProcess
    teacher: Model
    guidance: float
    num_classes: int

    def __call__(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        conditional = velocity_under(self.process, self.teacher, x_t, t, cond)
        if self.guidance == 1 or cond is None or cond.label is None:
            return conditional
        none = Conditioning(jnp.full_like(cond.label, self.num_classes))
        unconditional = velocity_under(self.process, self.teacher, x_t, t, none)
        return unconditional + self.guidance * (conditional - unconditional)

    def advance(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        r: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        # DDIM, exact for a constant denoiser: x_s = a_s D + (s_s / s_t) (x_t - a_t D).
        alpha, sigma, d_alpha, d_sigma = self.process.rates(t)
        velocity = self(x0, eps, x_t, t, cond)
        denoised = (velocity - (d_sigma / sigma) * x_t) / (d_alpha - d_sigma * alpha / sigma)
        shrink = self.process.sigma(r) / sigma
        return shrink * x_t + (self.process.alpha(r) - alpha * shrink) * denoised


@dataclass(frozen=True)
class Options(ConsistencyOptions):
    """Options of consistency distillation."""

    guidance: Annotated[float, Ge(0)] = 1.0
    """Classifier-free guidance strength in the teacher's tangent; 1 is none."""


def build_tangent(config: Options, context: Context, *, key: Key) -> TeacherTangent:
    if context.teacher is None:
        raise ValueError("no teacher to take the tangent from; name a run with --teacher")
    return TeacherTangent(
        process=context.noise,
        teacher=context.teacher,
        guidance=config.guidance,
        num_classes=context.data.num_classes,
    )


plugin = Plugin(
    name="scd",
    summary="continuous-time consistency distillation of a teacher (arXiv 2410.11081)",
    provides={Slot.tangent: build_tangent, Slot.loss: build_loss},
    config=Options,
    suggests={Slot.sampler: "consistency"},
    settings={"log-normal.mean": -1.0, "log-normal.std": 1.4, "train.lr": 1e-4},
    teacher="required",
)
