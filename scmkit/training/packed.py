"""A tree of modules as the flat row of its arrays."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
from jaxtyping import PyTree

T = TypeVar("T")


class _Rest:
    """All of a tree but its arrays. Compared by identity, which costs nothing."""

    def __init__(self, tree: PyTree) -> None:
        arrays, self.static = eqx.partition(tree, eqx.is_array)
        self.structure = jax.tree.structure(arrays)


@jax.tree_util.register_pytree_node_class
class Packed(Generic[T]):
    """A tree that keeps its form while its arrays change, such as the state of a training.

    A compiled function takes and returns one without a walk through its modules, which at every step would
    cost the host a millisecond and more. All that come of one `pack` have one form, so that nothing is
    compiled anew for them.
    """

    def __init__(self, arrays: tuple[Any, ...], rest: _Rest) -> None:
        # JAX rebuilds trees with other things than arrays in their place.
        self.arrays, self._rest = arrays, rest

    @property
    def tree(self) -> T:
        """The tree itself."""
        return eqx.combine(jax.tree.unflatten(self._rest.structure, self.arrays), self._rest.static)

    def holding(self, tree: T) -> Packed[T]:
        """The arrays of another tree in this form; raises `ValueError` where the tree has another."""
        arrays, structure = jax.tree.flatten(eqx.filter(tree, eqx.is_array))
        if structure != self._rest.structure:
            raise ValueError("the tree has another form than the one that was packed")
        return Packed(tuple(arrays), self._rest)

    def tree_flatten(self) -> tuple[tuple[Any, ...], _Rest]:
        return self.arrays, self._rest

    @classmethod
    def tree_unflatten(cls, rest: _Rest, arrays: tuple[Any, ...]) -> Packed[T]:
        return cls(arrays, rest)


def pack(tree: T) -> Packed[T]:
    """A tree packed."""
    rest = _Rest(tree)
    return Packed(tuple(jax.tree.leaves(eqx.filter(tree, eqx.is_array))), rest)
