"""Where on the mesh each array lies: one rule for weights, moments, averages, followers and teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from scmkit.distribution.mesh import DATA, FSDP

T = TypeVar("T")

LEAST = 1 << 14
"""Arrays of fewer elements are whole on every device: to gather them would cost more than it saves."""


@dataclass(frozen=True)
class Layout:
    """The places of arrays on a mesh. An array is divided along `fsdp` by its largest axis that divides.

    **Attributes:**

    - `mesh`: the devices, with axes `data` and `fsdp`; or those axes alone, to ask for the rule.
    - `least`: arrays of fewer elements are whole on every device, as are those of which no axis divides.
    """

    mesh: Mesh | AbstractMesh
    least: int = LEAST

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return self.mesh.size

    @property
    def divides(self) -> bool:
        """Whether any array but samples is divided."""
        return self.mesh.shape[FSDP] > 1

    @property
    def rows(self) -> PartitionSpec:
        """How samples are divided along their first axis."""
        return PartitionSpec((DATA, FSDP))

    def axis(self, leaf: Any) -> int | None:
        """The axis by which an array is divided, the last of equal ones; None where it is whole."""
        parts, shape = self.mesh.shape[FSDP], leaf.shape
        fits = [i for i, side in enumerate(shape) if side and side % parts == 0]
        if parts == 1 or not fits or prod(shape) < self.least or _is_key(leaf):
            return None
        return max(fits, key=lambda i: (shape[i], i))

    def spec(self, leaf: Any) -> PartitionSpec:
        """The same as a partition of the mesh."""
        axis = self.axis(leaf)
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, FSDP)

    def sharding(self, leaf: Any) -> NamedSharding:
        """The same with the mesh's devices."""
        return NamedSharding(self.mesh, self.spec(leaf))

    @property
    def whole(self) -> NamedSharding:
        """The place of arrays that every device has whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the samples are this process's, and of how many: all have as many devices."""
        return jax.process_index(), jax.process_count()

    def placed(self, tree: T) -> T:
        """A tree that this process holds whole, as do the others, with its arrays in their places.

        Each is one of its own, which may be donated.
        """
        return _mapped(lambda a: spread(a, self.sharding(a)), tree)

    def placed_once(self, tree: T) -> T:
        """The same, but what was one array stays one, such as a teacher's that a tangent holds as well."""
        there: dict[int, Any] = {}

        def place(leaf: Any) -> Any:
            if id(leaf) not in there:
                there[id(leaf)] = spread(leaf, self.sharding(leaf))
            return there[id(leaf)]

        return _mapped(place, tree)

    def everywhere(self, tree: T) -> T:
        """The same with every array whole on every device."""
        return _mapped(lambda a: spread(a, self.whole), tree)

    def like(self, tree: T) -> T:
        """The shapes of a tree's arrays with their places, as `checkpoint.restore` takes them."""

        def shape(leaf: Any) -> Any:
            if not (eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)):
                return leaf
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharding(leaf))

        return jax.tree.map(shape, tree)

    def samples(self, tree: T) -> T:
        """The rows of this process as its part of all processes' rows, in the order of the processes."""
        place = NamedSharding(self.mesh, self.rows)
        if place.is_fully_addressable:
            return jax.device_put(tree, place)
        return jax.tree.map(lambda a: jax.make_array_from_process_local_data(place, a), tree)

    def local(self, tree: T) -> T:
        """A tree whole, on the first device of every process. All processes take part."""
        arrays, rest = eqx.partition(tree, eqx.is_array)
        gathered = jax.jit(lambda t: t, out_shardings=self.whole)(arrays)
        return eqx.combine(jax.tree.map(lambda a: a.addressable_data(0), gathered), rest)

    def constrained(self, tree: T) -> T:
        """Within a compiled function, a tree with its arrays in their places."""
        shardings = self.sharding
        return _mapped(lambda a: jax.lax.with_sharding_constraint(a, shardings(a)), tree)

    def shown(self, tree: T) -> T:
        """Within a compiled function, a tree with every array whole on every device."""
        return _mapped(lambda a: jax.lax.with_sharding_constraint(a, self.whole), tree)


def _mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(change, arrays), rest)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def spread(leaf: Any, sharding: NamedSharding) -> PyTree:
    """An array that every process has whole, or a key, in the places that a sharding says."""
    if _is_key(leaf):
        return jr.wrap_key_data(spread(jr.key_data(leaf), sharding), impl=jr.key_impl(leaf))
    if sharding.is_fully_addressable:
        # Copied: the step donates its state, and one buffer may be in state and setting.
        return jax.device_put(leaf, sharding, may_alias=False)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])
