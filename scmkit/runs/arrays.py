"""The arrays of a pytree as zarr3 arrays on disk, each named after its place in the tree."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Sharding
from jaxtyping import PyTree

Region = tuple[tuple[int, int], ...]
"""A part of an array: from where to where along each axis."""

T = TypeVar("T")

FOLDER = "arrays"
"""Where in a checkpoint the arrays are, so that no leaf's name can meet another file's."""

AT_ONCE = 1 << 28
"""Bytes on their way between devices and disk at one time, so that no host holds what its devices hold."""


def is_saved(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for one."""
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(leaf: Any) -> dict[str, Any]:
    """The manifest's record of a leaf: `dtype` and `shape`."""
    dtype = str(leaf.dtype) if is_key(leaf) else np.dtype(leaf.dtype).name
    return {"dtype": dtype, "shape": list(leaf.shape)}


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """The leaves of a tree, in its order, each with the name `a/b/0` of its array.

    Names are unique also where upper and lower case are one; those of a subtree do not depend on
    the rest of the tree.
    """
    leaves, _ = jtu.tree_flatten_with_path(tree)
    names: dict[tuple[Any, ...], str] = {(): ""}
    taken: set[str] = set()
    named = []
    for path, leaf in leaves:
        for depth in range(1, len(path) + 1):
            node = path[:depth]
            if node in names and depth < len(path):
                continue
            base = name = f"{names[node[:-1]]}/{_escape(node[-1])}".removeprefix("/")
            repeat = 0
            while name.casefold() in taken:
                repeat += 1
                name = f"{base}~{repeat}"
            taken.add(name.casefold())
            names[node] = name
        named.append((names[path] or "value", leaf))
    return named


def devices_of_regions(sharding: Sharding, shape: Sequence[int]) -> dict[Region, list[Any]]:
    """The distinct parts that a sharding divides an array into, and the devices that hold each."""
    found: dict[Region, list[Any]] = {}
    for device, index in sharding.devices_indices_map(tuple(shape)).items():
        found.setdefault(region(index or (), shape), []).append(device)
    return found


def region(index: tuple[slice, ...], shape: Sequence[int]) -> Region:
    """An index as jax gives it, with its bounds written out."""
    return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))


def slices(part: Region) -> tuple[slice, ...]:
    """A region as an index."""
    return tuple(slice(*bounds) for bounds in part)


def batches(items: Iterable[tuple[T, int]]) -> Iterator[list[T]]:
    """The items, of which each comes with its bytes, in groups of `AT_ONCE` bytes or little more."""
    group: list[T] = []
    size = 0
    for item, number in items:
        group.append(item)
        size += number
        if size >= AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


def short(error: Exception) -> str:
    """The first line of an error, without the source locations that TensorStore appends."""
    return str(error).split(" [source locations")[0].partition("\n")[0]


def spec(root: Path, name: str) -> dict[str, Any]:
    """What TensorStore must know to find the array `name` of a checkpoint."""
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{root.absolute() / FOLDER / name}/"},
        # Otherwise an array of zeros has no file, and a lost file would read as zeros.
        "store_data_equal_to_fill_value": True,
    }


def _escape(entry: Any) -> str:
    """One path element as a file name: readable, injective up to case, and never `.` or `..`."""
    fields = ("name", "key", "idx")
    text = str(next((getattr(entry, field) for field in fields if hasattr(entry, field)), entry))
    name = quote(text, safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
    if len(name) > 200:  # File systems allow 255 bytes.
        name = f"{name[:150]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return name or "%"
