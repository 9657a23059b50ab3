"""Safetensors, through the library of that name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from scmkit.errors import DataError
from scmkit.storage.files import write_bytes
from scmkit.weights.damage import Unreadable, shown

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata; the library compares the header with the size of the file."""
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
        content = deserialize(path.read_bytes())
    except SafetensorError as error:
        reason = shown(str(error))
        raise Unreadable(f"it is no whole safetensors file ({reason}); fetch it again") from None
    return {name: _array(name, tensor) for name, tensor in content}, metadata


def _array(name: str, tensor: Mapping[str, Any]) -> np.ndarray:
    dtype = DTYPES.get(tensor["dtype"])
    if dtype is None:
        raise Unreadable(f"{shown(name)} is of type {tensor['dtype']}; save it as F32")
    flat = np.frombuffer(tensor["data"], dtype)
    return flat.reshape(tensor["shape"])


def write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays and strings to a file, whole or not at all.

    Raises `RunError` if it cannot be written, `DataError` for arrays that the format has no type for.
    """
    from safetensors.numpy import save

    for name, array in arrays.items():
        if array.dtype.newbyteorder("=") not in DTYPES.values():
            raise DataError(
                f"'{path}': array '{name}' is {array.dtype}, which safetensors has not; convert it"
            )
    plain = {
        name: np.asarray(array, array.dtype.newbyteorder("="), order="C")
        for name, array in arrays.items()
    }
    write_bytes(path, save(plain, dict(metadata)))
