"""Locks on directories that the kernel drops when their owner dies, so that none is ever stale."""

import contextlib
import errno
import os
import socket
from pathlib import Path
from types import TracebackType

from scmkit.errors import RunError

LOCK = ".lock"
"""The lock's file in its directory. It stays: a file removed while another opens it locks nothing."""

_TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BYTE = (
    1 << 30
)  # Windows keeps others from reading locked bytes, so they lie past the owner's name.


class DirectoryLock:
    """A context manager that lets one process at a time work in a directory.

    **Arguments:**

    - `directory`: the directory to work in.
    - `file`: the name of the file in it that is locked. It is made where it is missing, and holds the name
        of the lock's owner.

    **Attributes:**

    - `held`: whether the file system locks at all; some network file systems do not, and the caller
        then goes on without.

    Raises `RunError` on entering, if another process holds it (naming that one) or nothing can be
    written there.
    """

    def __init__(self, directory: Path, file: str = LOCK) -> None:
        self.directory = directory
        self.file = file
        self.held = False
        self._descriptor: int | None = None

    def __enter__(self) -> "DirectoryLock":
        path = self.directory / self.file
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise RunError(
                    f"'{path}' is a link, and what is written must stay in its folder; remove it"
                ) from error
            raise RunError(
                f"'{self.directory}' cannot be written to: {error.strerror}; make it writable or "
                "work on a copy"
            ) from error
        try:
            _lock(self._descriptor)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return self
            owner = os.pread(self._descriptor, 200, 0) if hasattr(os, "pread") else b""
            self._close()
            if error.errno not in _TAKEN:
                raise RunError(f"'{path}' cannot be locked: {error.strerror}") from error
            who = owner.decode(errors="replace").strip() or "another process"
            raise RunError(
                f"'{self.directory}' is in use by {who}; wait for it to end, or stop it"
            ) from None
        self.held = True
        # A file with a second name may be shared with a copy of the directory that is made of hard links.
        if os.fstat(self._descriptor).st_nlink > 1:
            return self
        # Only for the message above: a full disk must not keep anyone from working.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.write(
                self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode()
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self.held = False


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
