"""Segmented sCD: a consistency function for each segment of the path, distilled in continuous time."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods import scd
from scmkit_plugins.methods._bounds import FINEST
from scmkit_plugins.methods._tangent import ConsistencyLoss, build_loss, unbounded


@dataclass(frozen=True)
class Options(scd.Options):
    r"""Options of segmented consistency distillation.

    With $\Delta = t - t_k$ on the segment $(t_k, t_{k+1}]$, in TrigFlow's coordinates,

    $$g = -\cos^2\Delta\, (\sigma_d F^- - \dot x)
          - r\, \big(\cos\Delta \sin\Delta\, x_t + \sigma_d \cos\Delta \sin\Delta\, \tfrac{dF^-}{dt}\big)$$

    takes the place of sCD's tangent; the network is told $t$ and $t_k$. One segment is sCD
    (https://github.com/EpiGenomicsCode/edm2_sCM, `training/loss_ms_scm.py`; segments: arXiv 2403.06807).
    """

    segments: Annotated[int, Ge(1), Le(FINEST)] = 4
    """Segments of the path, equal in TrigFlow's angle, and steps in which the model samples."""


def build_segmented_loss(config: Options, context: Context, *, key: Key) -> ConsistencyLoss:
    ranged, segments = config.guidance_range, config.segments
    return build_loss(config, context, guidance_range=ranged, segments=segments, key=key)


plugin = Plugin(
    name="ms-scd",
    summary="segmented sCD: one consistency function for each of a few segments",
    provides={Slot.tangent: scd.build_tangent, Slot.loss: build_segmented_loss},
    config=Options,
    differentiates=True,
    normalizes=unbounded("ms-scd"),
    conditions=scd.plugin.conditions,
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "flow-map"},
    settings=lambda config: {
        "flow-map.steps": (config.segments,),
        "log-normal.mean": -1.0,
        "log-normal.std": 1.6,
        "train.lr": 1e-4,
    },
    makes="generator",
    starts_from="teacher",
    taught_by=scd.taught_by,
    noise_labels=2,
)
