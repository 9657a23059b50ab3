"""Files that are read, files that are written whole or not at all and stay where they are, and paths."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from scmkit.errors import RunError
from scmkit.storage.containment import inside

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
        make_durably(path, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok:
            raise
        raise RunError(
            f"'{path}' cannot be created: {error.strerror}; make the place writable or choose another"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it, creating its folder, and make it durable.

    Raises `RunError` naming the path if it cannot be written; what was there before is untouched.
    """
    # Of a name of its own, so that two processes may write the same file.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        make_durably(path.parent)
        write_durably(temporary, content)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(
            f"'{path}' cannot be written: {error.strerror}; free some space or make the place writable"
        ) from error


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def refuse_links(folder: Path, *, but: Collection[str] = ()) -> None:
    """Raises `RunError` where something in a folder is a link out of it, and writing would be elsewhere.

    The folder itself may be a link, and so may those it is in: the user named it. `but` are names in it that
    are only read.
    """
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_symlink() and entry.name not in but:
            try:
                inside(folder, entry.name)
            except ValueError:
                raise RunError(
                    f"'{entry}' is a link out of '{folder}', and nothing is written or removed through one; "
                    "put in its place what it points to, or move the whole folder and link that"
                ) from None


def make_durably(path: Path, *, exist_ok: bool = True) -> None:
    """Make a directory and its parents, so that they outlast a crash of the system. Raises `OSError`."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for folder in made:
        sync_directory(folder.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file in place, so that it outlasts a crash of the system. Raises `OSError`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where its file system can."""
    if os.name == "nt":  # Windows cannot open a directory, and writes its names through.
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # One may be allowed to write to a directory and not to read it.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
