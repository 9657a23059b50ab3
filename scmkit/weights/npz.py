"""State dicts as `.npz` files."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.storage.npy import read_header
from scmkit.weights.archive import entries
from scmkit.weights.damage import Unreadable, require, shown


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an `.npz` file. Objects, which would have to be unpickled, are refused."""
    with zipfile.ZipFile(path) as archive:
        names = entries(archive, path)
        for name in names:
            if not name.endswith(".npy"):
                raise Unreadable(
                    f"its file {shown(name)} is no array; save a state dict with np.savez"
                )
        return {n.removesuffix(".npy"): _array(n, archive.read(n)) for n in names}, {}


def _array(name: str, content: bytes) -> np.ndarray:
    """An `.npy` file, of which size and checksum are right."""
    name = shown(name.removesuffix(".npy"))
    try:
        header = read_header(io.BytesIO(content))
    except ValueError as error:
        raise Unreadable(f"{name} is no array of numbers ({error}); save a state dict") from None
    dtype = header.dtype
    if dtype is None:
        raise Unreadable(
            f"{name} is no array of numbers but of {shown(header.kind)}; objects are not unpickled, and "
            "bfloat16 is saved as .safetensors"
        )
    size = math.prod(header.shape) * dtype.itemsize
    require(size == len(content) - header.start, f"{name} has not the size that it says")
    flat = np.frombuffer(content, dtype, offset=header.start)
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return array.astype(dtype.newbyteorder("="), order="C")
