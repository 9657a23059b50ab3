"""How all processes write the arrays of a checkpoint: each distinct part once, by one that has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tensorstore as ts
from jaxtyping import PyTree

from scmkit.distribution import processes
from scmkit.runs.arrays import (
    FOLDER,
    Region,
    batches,
    describe,
    devices_of_regions,
    is_key,
    is_saved,
    named_leaves,
    slices,
    spec,
)


@dataclass(frozen=True)
class Plan:
    """An array of a checkpoint: how all processes describe it, and what this one writes of it.

    **Attributes:**

    - `record`: the manifest's record.
    - `dtype`, `shape`, `chunk`: as zarr has them; every part is a chunk, and so a file.
    - `parts`: what this process writes.
    """

    record: dict[str, Any]
    dtype: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    parts: dict[Region, Any]

    @property
    def files(self) -> int:
        """How many files the array has with its metadata."""
        return 1 + prod(n // c for n, c in zip(self.shape, self.chunk, strict=True))

    @property
    def nbytes(self) -> int:
        """The bytes of the whole array."""
        return prod(self.shape) * jnp.dtype(self.dtype).itemsize

    @property
    def metadata(self) -> dict[str, Any]:
        """The same for zarr."""
        return {
            "shape": self.shape,
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk}},
            # Keys "0.0" in place of "c/0/0": one directory per array to make durable, not three.
            "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
        }

    def file(self, part: Region) -> str:
        """The name of a part's file."""
        pairs = zip(part, self.chunk, strict=True)
        return ".".join(str(start // c) for (start, _), c in pairs) or "0"


def plans(tree: PyTree) -> dict[str, Plan]:
    """The arrays of a tree by name, which all processes give alike. Raises `TypeError`."""
    leaves = [(name, leaf) for name, leaf in named_leaves(tree) if is_saved(leaf)]
    return {name: _plan(name, leaf, number) for number, (name, leaf) in enumerate(leaves)}


def _plan(name: str, leaf: Any, number: int) -> Plan:
    record = describe(leaf)
    if is_key(leaf):
        record["key"] = str(jr.key_impl(leaf))
        leaf = jr.key_data(leaf)
    dtype = _as_stored(name, np.empty(0, leaf.dtype)).dtype.name
    chunk = leaf.sharding.shard_shape(leaf.shape) if isinstance(leaf, jax.Array) else leaf.shape
    parts = _parts(leaf, number) if leaf.size else {}
    return Plan(record, dtype, leaf.shape, tuple(max(1, side) for side in chunk), parts)


def _parts(leaf: Any, number: int) -> dict[Region, Any]:
    """The parts of an array, the tree's array `number`, that this process is to write."""
    # What every process has whole is the same in all of them.
    if getattr(leaf, "is_fully_addressable", True) and processes.index():
        return {}
    if not isinstance(leaf, jax.Array):
        return {tuple((0, n) for n in leaf.shape): leaf}
    here = {shard.device: shard.data for shard in leaf.addressable_shards}
    parts = {}
    for i, (part, holders) in enumerate(devices_of_regions(leaf.sharding, leaf.shape).items()):
        # By turns, so that every process writes about as much as the others.
        writer = holders[(number + i) % len(holders)]
        if writer in here:
            parts[part] = here[writer]
    return parts


def copied(arrays: Mapping[str, Plan]) -> dict[str, Plan]:
    """The same with this process's parts on the host, where no step can overwrite them."""
    _send(data for plan in arrays.values() for data in plan.parts.values())
    return {
        name: replace(plan, parts={at: _copy(data) for at, data in plan.parts.items()})
        for name, plan in arrays.items()
    }


def _send(parts: Any) -> None:
    """Begin to copy to the host what is on devices."""
    for data in parts:
        if isinstance(data, jax.Array):
            data.copy_to_host_async()


def _copy(data: Any) -> np.ndarray:
    """A copy on the host. What comes from memory of a device's own is one already."""
    there = isinstance(data, jax.Array) and data.sharding.memory_kind == "device"
    if there and all(device.platform != "cpu" for device in data.devices()):
        return np.asarray(data)
    return np.array(data)


def create_arrays(root: Path, arrays: Mapping[str, Plan]) -> list[str]:
    """Write the metadata of all arrays, as one process does, and return the names of the files.

    Raises `OSError` or `ValueError`. The files are not yet durable.
    """
    context = _context()
    opened = [
        ts.open(spec(root, name) | {"metadata": plan.metadata}, create=True, context=context)
        for name, plan in arrays.items()
    ]
    for store in opened:
        store.result()
    return [f"{FOLDER}/{name}/zarr.json" for name in arrays]


def write_arrays(root: Path, arrays: Mapping[str, Plan]) -> list[str]:
    """Write this process's parts of arrays that were created, and return the names of the files.

    Raises `OSError` or `ValueError`. The files are not yet durable.
    """
    context = _context()
    # Not read again: another host's file system may not yet show what was created.
    stores = {
        name: ts.open(
            spec(root, name) | {"metadata": plan.metadata},
            open=True,
            assume_metadata=True,
            context=context,
        )
        for name, plan in arrays.items()
        if plan.parts
    }
    parts = [(name, at, data) for name, plan in arrays.items() for at, data in plan.parts.items()]
    for group in batches((part, part[2].nbytes) for part in parts):
        _send(data for _, _, data in group)
        written = [
            stores[name]
            .result()[slices(at)]
            .write(_as_stored(name, data), can_reference_source_data_indefinitely=True)
            for name, at, data in group
        ]
        for future in written:
            future.result()
    return [f"{FOLDER}/{name}/{arrays[name].file(at)}" for name, at, _ in parts]


def _context() -> ts.Context:
    return ts.Context({"file_io_sync": False})  # Every file is made durable later, all at once.


def _as_stored(name: str, array: Any) -> np.ndarray:
    """What zarr holds for an array: itself, or its bits where zarr has no such number (float8)."""
    array = np.asarray(array)
    if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise TypeError(f"leaf '{name}' has dtype {array.dtype}, which is no number")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.isbuiltin == 1 or array.dtype == jnp.bfloat16:
        return array
    return array.view(f"uint{8 * array.dtype.itemsize}")
