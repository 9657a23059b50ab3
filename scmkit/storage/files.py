"""Files that are written whole or not at all and stay where they are, their folders, and paths to them."""

import contextlib
import errno
import os
import uuid
from collections.abc import Collection
from pathlib import Path

from scmkit.errors import RunError
from scmkit.storage.containment import inside


def plain_path(path: str | os.PathLike[str]) -> Path:
    """A path without `..`, which TensorStore refuses; one that has none stays as it was given.

    Links before a `..` are followed, as the system does.
    """
    path = Path(path)
    if ".." not in path.parts:
        return path
    try:
        return path.resolve()
    # A path that the system refuses is reported where it is opened.
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
    # Each process has a name of its own, so that two of them may write the same file.
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
    """Raises `RunError` where an entry of a folder is a link out of it: writing would be elsewhere.

    The folder itself may be a link, and so may the folders above it: the user named it. `but` names
    entries that are only read.
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
    if os.name == "nt":  # Windows cannot open a directory; it makes names durable by itself.
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
