"""State dicts as `.npz` files."""

import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.weights.archive import entries
from scmkit.weights.damage import Unreadable, require, shown

_HEADER = re.compile(
    rb"\{'descr': '([^'\\]{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9, ]{0,400})\), \} *\n"
)
"""What numpy writes (NEP 1). No more is parsed, so that nothing is evaluated."""

_NUMBERS = re.compile(r"[<>|](b1|[iu][1248]|f[248]|c8|c16)")


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
    require(
        content[:6] == b"\x93NUMPY" and content[6:8] in (b"\1\0", b"\2\0"), f"{name} is no array"
    )
    width = 2 * content[6]
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    header = _HEADER.fullmatch(content[8 + width : start])
    kind = header[1].decode("latin1") if header else ""
    if header is None or not _NUMBERS.fullmatch(kind):
        raise Unreadable(
            f"{name} is no array of numbers but of {shown(kind)}; objects are not unpickled, and bfloat16 "
            "is saved as .safetensors"
        )
    dtype, shape = np.dtype(kind), tuple(int(n) for n in header[3].split(b",") if n.strip())
    size = math.prod(shape) * dtype.itemsize
    require(size == len(content) - start, f"{name} has not the size that it says")
    flat = np.frombuffer(content, dtype, offset=start)
    array = flat.reshape(shape, order="F" if header[2] == b"True" else "C")
    return array.astype(dtype.newbyteorder("="), order="C")
