"""Reading a weight file, whatever its format."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.errors import DataError
from scmkit.weights.damage import Unreadable
from scmkit.weights.npz import read_npz
from scmkit.weights.safetensors_file import read_safetensors
from scmkit.weights.torch_files import read_pickle, read_torch_zip

Content = tuple[dict[str, np.ndarray], dict[str, Any]]

FORMATS = "a .safetensors file, an .npz of a state dict, a PyTorch checkpoint, or NVIDIA's .pkl"


@dataclass(frozen=True)
class WeightFile:
    """The named arrays of one network, and what the file says of it.

    **Attributes:**

    - `arrays`: by name, as in PyTorch's state dict (`"unet.out_conv.weight"`).
    - `metadata`: of a safetensors file its strings, of a pickled module its `class` and `kwargs`.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]


def read_weights(path: str | Path) -> WeightFile:
    """The arrays of a weight file; the format is told by its content.

    Nothing in the file is executed: pickles are read by a restricted reader that knows tensors and the
    fields of known networks, and refuses the rest. Sizes are checked before memory is taken. Raises
    `DataError`, one line, for anything that is not right.
    """
    path = Path(path)
    try:
        arrays, metadata = _reader(path)(path)
        if not arrays:
            raise Unreadable("it holds no arrays")
    except Unreadable as error:
        raise DataError(f"weight file '{path}': {error}") from None
    except OSError as error:
        raise DataError(f"weight file '{path}' cannot be read: {error.strerror or error}") from None
    except (Exception, RecursionError, MemoryError) as error:
        # Whatever a damaged or hostile file brings about in the libraries below.
        raise DataError(
            f"weight file '{path}' is damaged ({type(error).__name__}); fetch or save it again"
        ) from error
    return WeightFile(path, arrays, metadata)


def _reader(path: Path) -> Callable[[Path], Content]:
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return read_torch_zip if any(n.endswith("/data.pkl") for n in names) else read_npz
    if start.startswith(b"\x80"):
        return read_pickle
    if start[8:9] == b"{":
        return read_safetensors
    raise Unreadable(f"its format is not known; give {FORMATS}")
