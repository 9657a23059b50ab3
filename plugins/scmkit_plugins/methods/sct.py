"""sCT: consistency training, with the tangent from the data."""

from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.methods._data_tangent import DataTangent
from scmkit_plugins.methods._tangent import ConsistencyOptions, build_loss


def build_tangent(config: ConsistencyOptions, context: Context, *, key: Key) -> DataTangent:
    return DataTangent(context.noise)


plugin = Plugin(
    name="sct",
    summary="continuous-time consistency training (arXiv 2410.11081)",
    provides={Slot.tangent: build_tangent, Slot.loss: build_loss},
    config=ConsistencyOptions,
    suggests={Slot.sampler: "consistency"},
    settings={"log-normal.mean": -1.0, "log-normal.std": 1.4, "train.lr": 1e-4},
    teacher="initial",
)
