"""sCT: consistency training, with the tangent from the data."""

from scmkit.plugin import Plugin, Slot
from scmkit_plugins.methods._data_tangent import build_data_tangent
from scmkit_plugins.methods._tangent import ConsistencyOptions, build_loss, unbounded

plugin = Plugin(
    name="sct",
    summary="continuous-time consistency training (arXiv 2410.11081)",
    provides={Slot.tangent: build_data_tangent, Slot.loss: build_loss},
    config=ConsistencyOptions,
    differentiates=True,
    normalizes=unbounded("sct"),
    uses=(Slot.coupling,),
    suggests={Slot.sampler: "consistency"},
    settings={"log-normal.mean": -1.0, "log-normal.std": 1.4, "train.lr": 1e-4},
    makes="consistency",
    starts_from="weights",
)
