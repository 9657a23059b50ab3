"""The format of `torch.save` before PyTorch 1.6, in which plain pickles still embed storages."""

from typing import Any

import numpy as np

from scmkit.weights.damage import Unreadable, require, shown
from scmkit.weights.inert import Storage
from scmkit.weights.pickles import Pickle
from scmkit.weights.tensors import DTYPES, Elements, typed

MAGIC = 0x1950A86A20F9469CFC6C


def read_legacy(data: memoryview) -> tuple[Any, Elements]:
    """The object in five pickles (magic, version, system, object, keys) and the storages after them."""
    parts, end = [], 0
    storages: dict[str, Storage] = {}
    for _ in range(5):
        part = Pickle(data, end)
        parts.append(part.value)
        end = part.end
        storages |= part.storages
    magic, version, system, content, keys = parts
    require(magic == MAGIC and version == 1001, "it is not PyTorch's format of version 1001")
    require(isinstance(system, dict) and isinstance(keys, list), "its description is garbled")
    if system.get("little_endian") is not True:
        raise Unreadable("it was written by a big-endian machine; save it again on another")
    found: dict[str, np.ndarray] = {}
    for key in keys:
        require(isinstance(key, str) and key in storages, "it has data that nothing refers to")
        storage = storages[key]
        dtype = DTYPES.get(storage.dtype) or np.dtype(storage.dtype)
        start, end = end + 8, end + 8 + storage.numel * dtype.itemsize
        require(end <= len(data), "it is cut")
        numel = int.from_bytes(data[start - 8 : start], "little", signed=True)
        require(numel == storage.numel, f"storage {shown(key)} has not the size that it says")
        found[key] = typed(data[start:end], storage)

    def elements(storage: Storage) -> np.ndarray:
        require(storage.key in found, f"it has no data for storage {shown(storage.key)}")
        return found[storage.key]

    return content, elements


def embedded(data: memoryview) -> np.ndarray:
    """The elements of the one storage that such a file holds."""
    content, elements = read_legacy(data)
    require(isinstance(content, Storage), "what should be a storage is none")
    return elements(content)


def nothing(storage: Storage) -> np.ndarray:
    """For pickles that hold no data but what is embedded."""
    raise Unreadable(f"it is damaged (storage {shown(storage.key)} is missing); fetch it again")
