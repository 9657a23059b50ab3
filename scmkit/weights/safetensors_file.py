"""Safetensors, through the library of that name."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.errors import RunError
from scmkit.weights.damage import Unreadable


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata; the library checks the header against the file's size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, dict(file.metadata() or {})
    except SafetensorError as error:
        raise Unreadable(f"it is no whole safetensors file ({error}); fetch it again") from None


def write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write arrays and strings to a file, whole or not at all. Raises `RunError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
        save_file(contiguous, temporary, dict(metadata))
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"'{path}' cannot be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
