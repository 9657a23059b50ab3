"""The format of `torch.save`: a zip archive of a pickle and a file for each storage."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.weights.archive import entries
from scmkit.weights.damage import Unreadable, require, shown
from scmkit.weights.inert import Storage
from scmkit.weights.networks import network
from scmkit.weights.pickles import Pickle
from scmkit.weights.tensors import Tensors, typed
from scmkit.weights.torch_legacy import embedded

PICKLE = "/data.pkl"


def read_torch_zip(path: Path, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The network under `key` in a checkpoint; checksums are compared with what is read."""
    with zipfile.ZipFile(path) as archive:
        files = entries(archive, path)
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in files.values())
        require(stored, "it is compressed, as PyTorch's are not")
        roots = [name.removesuffix(PICKLE) for name in files if name.endswith(PICKLE)]
        require(len(roots) == 1, f"it has {len(roots)} pickles instead of one")
        if f"{roots[0]}/byteorder" in files and archive.read(f"{roots[0]}/byteorder") != b"little":
            raise Unreadable("it was written by a big-endian machine; save it again on another")

        def elements(storage: Storage) -> np.ndarray:
            name = f"{roots[0]}/data/{storage.key}"
            require(name in files, f"it has no data for storage {shown(storage.key)}")
            return typed(memoryview(archive.read(name)), storage)

        content = Pickle(memoryview(archive.read(roots[0] + PICKLE))).value
        return network(content, key, Tensors(elements, embedded, path.stat().st_size))
