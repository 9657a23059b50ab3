"""State dicts as `.npz` files."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from scmkit.weights.damage import Unreadable, require

RATIO, LARGE = 100, 1 << 30
"""An entry of more than `LARGE` bytes that was compressed by more than `RATIO` is taken for a bomb."""


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an `.npz` file. Objects, which would have to be unpickled, are refused."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            require(entry.filename.endswith(".npy"), f"its entry '{entry.filename}' is no array")
            _check(archive, entry)
        arrays = {}
        for entry in archive.infolist():
            with archive.open(entry) as file:
                arrays[entry.filename.removesuffix(".npy")] = npy.read_array(
                    file, allow_pickle=False
                )
    return arrays, {}


def _check(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """That the array an entry speaks of is as large as the entry."""
    name = entry.filename.removesuffix(".npy")
    if entry.file_size > LARGE and entry.file_size > RATIO * max(entry.compress_size, 1):
        raise Unreadable(f"its array '{name}' is compressed beyond belief; save it uncompressed")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        header = file.tell()
    require(
        not dtype.hasobject, f"its array '{name}' holds Python objects, which are not unpickled"
    )
    size = dtype.itemsize
    for side in shape:
        size *= side
    require(size == entry.file_size - header, f"its array '{name}' is not as large as it says")
