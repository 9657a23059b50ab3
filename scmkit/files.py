"""Files that somebody names to be read, files that are written whole or not at all, and the paths to them."""

import contextlib
import errno
import os
import stat
import uuid
from pathlib import Path
from typing import BinaryIO

from scmkit.errors import RunError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
"""What is no regular file, in words."""


class IrregularError(OSError):
    """Something that is no regular file where one is needed; `strerror` says what it is."""

    def __str__(self) -> str:
        return self.strerror or ""


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """A file that somebody names, opened to be read.

    Only regular files are: a pipe could make the reader wait for ever, and a device may have no end. Raises
    `IrregularError` naming what is there instead, and `OSError` where nothing can be read.
    """
    # Opening a pipe without a writer would wait for one; regular files do not know this flag.
    waiting = getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, os.O_RDONLY | waiting | getattr(os, "O_BINARY", 0))
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        what = KINDS.get(kind, "something else")
        raise IrregularError(errno.EINVAL, f"it is {what}, and a regular file is needed")
    return os.fdopen(descriptor, "rb")


def check_input(path: str | os.PathLike[str]) -> None:
    """Raises `OSError` as `open_input` does, for readers that open a path themselves."""
    open_input(path).close()


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
