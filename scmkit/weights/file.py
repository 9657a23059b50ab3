"""Reading a weight file, whatever its format."""

import mmap
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.errors import DataError
from scmkit.storage.inputs import open_input
from scmkit.weights.damage import Unreadable, shown
from scmkit.weights.networks import network
from scmkit.weights.npz import read_npz
from scmkit.weights.pickles import Pickle
from scmkit.weights.prefixes import unwrapped
from scmkit.weights.safetensors_file import read_safetensors
from scmkit.weights.tensors import Tensors
from scmkit.weights.torch_legacy import MAGIC, embedded, nothing, read_legacy
from scmkit.weights.torch_zip import PICKLE, read_torch_zip

Content = tuple[dict[str, np.ndarray], dict[str, Any]]

FORMATS = (
    ".safetensors, .npz of a state dict, PyTorch's checkpoints, and the .pkl files of EDM and EDM2"
)


@dataclass(frozen=True)
class WeightFile:
    """Named arrays of one network, and what the file says about it.

    **Attributes:**

    - `arrays`: by their names in PyTorch's state dict (`"unet.enc.64x64_conv.weight"`); read-only, and one
        array where weights are tied.
    - `metadata`: of a safetensors file its strings; of a pickled module its `class`, the `kwargs` it was made
        with, and its `modules`: of each, by its dotted name, the class and the attributes, all as far as they
        are plain values. A snapshot of EDM2 may have an `encoder`, described likewise. Else empty.
    - `prefix`: what stood before every name and is left out, such as DataParallel's `"module."`; only of what
        is no pickled module.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]
    prefix: str = ""


def read_weights(path: str | Path, *, key: str = "ema") -> WeightFile:
    """The network in a weight file. The format is told by the file's content, not by its name.

    Nothing in the file is executed, and sizes are compared with the bytes that are there before memory is
    taken. Where a checkpoint has several networks, `key` names the one; then `"state_dict"`, `"ema"`,
    `"model"` and `"net"` are tried. Raises `DataError`, of one line, for whatever else the file is.
    """
    path = Path(path)
    try:
        arrays, metadata = _content(path, key)
        if not arrays:
            raise Unreadable("it holds no arrays; save a state dict")
    except Unreadable as error:
        raise DataError(f"weight file '{path}': {error}") from None
    except OSError as error:
        reason = error.strerror or shown(str(error))
        raise DataError(f"weight file '{path}' cannot be read: {reason}; check the path") from None
    # Whatever a damaged or hostile file brings about in zipfile, numpy and the rest.
    except Exception as error:
        reason = f"{type(error).__name__}: {shown(str(error))}"
        raise DataError(f"weight file '{path}' is damaged ({reason}); fetch it again") from None
    for array in arrays.values():
        array.flags.writeable = False
    # The names of a module that was pickled itself are its own.
    named, prefix = (arrays, "") if "modules" in metadata else unwrapped(arrays)
    return WeightFile(path, named, metadata, prefix)


def _content(path: Path, key: str) -> Content:
    with open_input(path) as file:
        start, size = file.read(16), os.fstat(file.fileno()).st_size
        if start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(file) as archive:
                torch = any(name.endswith(PICKLE) for name in archive.namelist())
            return read_torch_zip(path, key) if torch else read_npz(path)
        # First the length of a header, then the header, which is JSON.
        if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size:
            return read_safetensors(path)
        if start.startswith(b"\x80"):
            # Mapped, so that the bytes of arrays are copied once, to where they belong.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return _pickled(memoryview(mapped), key)
    raise Unreadable(f"its format is none of those that are read: {FORMATS}")


def _pickled(data: memoryview, key: str) -> Content:
    """A plain pickle, or the old format of `torch.save`, which begins with one."""
    content, elements = Pickle(data).value, nothing
    if isinstance(content, int) and content == MAGIC:
        content, elements = read_legacy(data)
    return network(content, key, Tensors(elements, embedded, len(data)))
