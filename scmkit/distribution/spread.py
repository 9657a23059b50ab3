"""Work on samples that never meet, over all devices of all processes."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from scmkit.distribution.layout import Layout, spread
from scmkit.distribution.mesh import mesh_of
from scmkit.distribution.processes import count, index, joined

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


def shared_out(function: Callable[[int], T], n: int) -> list[T]:
    """`function` of each number below `n`, in every process, each computed by one of them.

    It returns trees of numpy arrays, of one structure and of the same shapes for every number.
    """
    if not joined():
        return [function(i) for i in range(n)]
    rounds = -(-n // count())
    # Some repeat the last one, so that all have as many.
    own = [function(min(index() * rounds + i, n - 1)) for i in range(rounds)]
    told = process_allgather(jax.tree.map(lambda *a: np.stack(a), *own))
    flat = jax.tree.map(lambda a: np.asarray(a).reshape(-1, *a.shape[2:]), told)
    return [jax.tree.map(lambda a, i=i: a[i], flat) for i in range(n)]
