"""On which devices training keeps its arrays: the state on all of them, of each batch a part on each."""

from typing import TypeVar

import equinox as eqx
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scmkit.training.progress import Reporter

T = TypeVar("T")


class Placement:
    """The most local devices among which the samples of a batch, or micro-batch, divide evenly."""

    def __init__(self, samples: int, reporter: Reporter) -> None:
        devices = jax.local_devices()
        used = devices_for(samples, len(devices))
        if used < len(devices):
            reporter.message(
                f"{samples} samples at a time do not divide among {len(devices)} devices: training on "
                f"{used}; choose train.batch_size / train.accumulate as a multiple of {len(devices)}"
            )
        mesh = jax.make_mesh((used,), ("data",), (AxisType.Auto,), devices=devices[:used])
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._by_sample = NamedSharding(mesh, PartitionSpec("data"))

    def everywhere(self, tree: T) -> T:
        """A tree whose arrays are whole on every device that is used."""
        return eqx.filter_shard(tree, self._everywhere)

    def by_sample(self, tree: T) -> T:
        """A tree of arrays, each divided among the devices along its first axis."""
        return jax.device_put(tree, self._by_sample)


def devices_for(samples: int, available: int) -> int:
    """The most devices of those available among which the samples divide evenly."""
    return max(count for count in range(1, available + 1) if samples % count == 0)
