"""Work on samples that never meet, over all devices of all processes."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import equinox as eqx
import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from scmkit.distribution.layout import Layout, spread
from scmkit.distribution.mesh import mesh_of

T = TypeVar("T")


class Spread:
    """All devices of all processes, each with its part of the samples. With one device it changes nothing."""

    @property
    def devices(self) -> int:
        """How many devices there are, by which the number of samples must divide."""
        return jax.device_count()

    @cached_property
    def _layout(self) -> Layout:
        return Layout(mesh_of(None))

    def shared(self, tree: T) -> T:
        """A tree that every process has, whole on every device."""
        return tree if self.devices == 1 else self._layout.everywhere(tree)

    def divided(self, tree: T) -> T:
        """Samples that every process has, along the first axis of all arrays, divided among the devices."""
        if self.devices == 1:
            return tree
        place = NamedSharding(self._layout.mesh, self._layout.rows)
        return jax.tree.map(lambda a: spread(a, place), tree)

    def joined(self, tree: T) -> T:
        """Divided samples again whole in every process; all of them take part."""
        return tree if self.devices == 1 else self._layout.local(tree)

    def each(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """`function(shared, *divided)` of each device's own samples, within a compiled function."""
        if self.devices == 1:
            return function
        rows, whole = self._layout.rows, PartitionSpec()

        def run(shared: Any, *divided: Any) -> Any:
            arrays, rest = eqx.partition(shared, eqx.is_array)

            def own(arrays: Any, *divided: Any) -> Any:
                return function(eqx.combine(arrays, rest), *divided)

            mapped = jax.shard_map(
                own,
                mesh=self._layout.mesh,
                in_specs=(whole, *[rows] * len(divided)),
                out_specs=rows,
                check_vma=False,
            )
            return mapped(arrays, *divided)

        return run
