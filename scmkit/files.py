"""Files that are written whole or not at all."""

import contextlib
from pathlib import Path

from scmkit.errors import RunError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it, creating its folder.

    Raises `RunError` naming the path if it cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(f"'{path}' cannot be written: {error.strerror}") from error


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())
