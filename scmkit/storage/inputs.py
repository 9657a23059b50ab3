"""Files that somebody names to be read: regular ones only."""

import errno
import os
import stat
from typing import BinaryIO

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
"""The kinds of file that are not regular, in words."""


class IrregularError(OSError):
    """A regular file is needed, and there is something else; `strerror` says what it is."""

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
