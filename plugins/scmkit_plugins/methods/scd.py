"""sCD: consistency distillation, with the tangent from a teacher."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from annotated_types import Ge
from jaxtyping import Array, Float

from scmkit import Guided, Run
from scmkit.interfaces import (
    AbstractModel,
    AbstractNoiseProcess,
    AbstractTangentEstimator,
    Point,
)
from scmkit.losses import ddim
from scmkit.models.change_of_process import velocity_under
from scmkit.models.guided import interval_of
from scmkit.plugin import WITH_VELOCITY, Context, Makes, Plugin, Slot
from scmkit.types import Key, Scalar
from scmkit_plugins.methods._tangent import (
    ConsistencyLoss,
    ConsistencyOptions,
    build_loss,
    unbounded,
)


class TeacherTangent(AbstractTangentEstimator):
    r"""The teacher's PF-ODE velocity; a teacher of any process, guided or not.

    A guided teacher (`scmkit.Guided`) takes the strength from the condition where there is one
    (arXiv 2410.11081, Section 2.2 and Appendix G).
    """

    process: AbstractNoiseProcess
    teacher: AbstractModel

    def __call__(self, point: Point) -> Float[Array, "*shape"]:
        return velocity_under(self.process, self.teacher, point.x_t, point.t, point.cond)

    def advance(self, point: Point, r: Scalar) -> Point:
        # DDIM, exact for a constant denoiser.
        denoised = self.process.denoised_from_velocity(self(point), point.x_t, point.t)
        x_r = ddim(self.process, point.x_t, denoised, point.t, r)
        return Point(point.x0, point.eps, x_r, r, point.cond)


@dataclass(frozen=True)
class TeacherOptions:
    """Which velocity a student follows."""

    guidance: Annotated[float, Ge(0)] = 1.0
    """Guidance strength in the teacher's tangent; 1 is none."""
    guidance_range: tuple[float, ...] = ()
    """LOW,HIGH: strengths drawn for each sample and told to the student, in place of one strength."""
    guidance_interval: tuple[float, ...] = ()
    """LOW,HIGH: noise-to-signal ratios between which guidance acts; everywhere if empty."""
    guide: str = ""
    """Run of a weaker model to guide away from (autoguidance); else the teacher without its label."""
    follow: str = ""
    """Run of the diffusion model to follow where --teacher names another for its weights, one of `cmt`."""

    def __post_init__(self) -> None:
        for name in ("guide", "follow"):  # The run is resumed from wherever.
            if value := getattr(self, name):
                object.__setattr__(self, name, str(Path(value).resolve()))
        for name in ("guidance_range", "guidance_interval"):
            value = getattr(self, name)
            if value and not (len(value) == 2 and 0 <= value[0] < value[1]):
                raise ValueError(
                    f"{name} {value}: give two numbers, the smaller first, such as 1,2"
                )


@dataclass(frozen=True)
class Options(TeacherOptions, ConsistencyOptions):
    """Options of consistency distillation."""


def conditions(config: TeacherOptions) -> tuple[str, ...]:
    """What the student must be told beside time and label."""
    return ("guidance",) if config.guidance_range else ()


def taught_by(config: TeacherOptions) -> tuple[Makes, ...]:
    """The kinds of model that `--teacher` may be: with `follow` it gives no more than weights."""
    return get_args(Makes) if config.follow else WITH_VELOCITY


def build_tangent(config: TeacherOptions, context: Context, *, key: Key) -> TeacherTangent:
    if context.teacher is None:
        raise ValueError("no teacher to take the tangent from; name a run with --teacher")
    teacher = Run.load(config.follow).diffusion_model if config.follow else context.teacher
    if config.guide or config.guidance != 1 or config.guidance_range:
        if not config.guide and not context.data.num_classes:
            raise ValueError(
                "guidance away from the prediction without a label needs data with classes; "
                "name a weaker run with the option 'guide'"
            )
        teacher = Guided(
            teacher,
            config.guidance,
            guide=Run.load(config.guide).diffusion_model if config.guide else None,
            interval=interval_of(config.guidance_interval),
        )
    return TeacherTangent(process=context.noise, teacher=teacher)


def build_guided_loss(config: Options, context: Context, *, key: Key) -> ConsistencyLoss:
    return build_loss(config, context, guidance_range=config.guidance_range, key=key)


plugin = Plugin(
    name="scd",
    summary="continuous-time consistency distillation of a teacher (arXiv 2410.11081)",
    provides={Slot.tangent: build_tangent, Slot.loss: build_guided_loss},
    config=Options,
    differentiates=True,
    normalizes=unbounded("scd"),
    conditions=conditions,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "consistency"},
    settings={"log-normal.mean": -1.0, "log-normal.std": 1.4, "train.lr": 1e-4},
    makes="consistency",
    starts_from="teacher",
    taught_by=taught_by,
)
