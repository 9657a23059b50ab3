"""Files that are written whole or not at all, the folders they are in, and the paths to them."""

import contextlib
import os
import uuid
from pathlib import Path

from scmkit.errors import RunError


def plain_path(path: str | os.PathLike[str]) -> Path:
    """A path without `..`, which TensorStore refuses; one that has none stays as it was given.

    Links before a `..` are followed, as the system does.
    """
    path = Path(path)
    if ".." not in path.parts:
        return path
    try:
        return path.resolve()
    # What is no path to the system is named where it is opened.
    except (OSError, ValueError, RuntimeError):
        return path


def make_directory(path: Path, *, exist_ok: bool = True) -> None:
    """Make a directory and its parents.

    Raises `RunError` naming it, and `FileExistsError` if it must be new and is not.
    """
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok:
            raise
        raise RunError(
            f"'{path}' cannot be created: {error.strerror}; make the place writable or choose another"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it, creating its folder.

    Raises `RunError` naming the path if it cannot be written; what was there before is untouched.
    """
    # Of a name of its own, so that two processes may write the same file.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(
            f"'{path}' cannot be written: {error.strerror}; free some space or make the place writable"
        ) from error


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())
