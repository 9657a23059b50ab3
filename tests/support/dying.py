"""`python dying.py PREFIX AT SIGNAL LOG ARGV...`: `scmkit ARGV`, signalled before one of its file operations.

That is the one of number AT, or the first whose line in LOG begins with AT. Those count whose path begins
with PREFIX: files opened for writing, made durable, renamed and removed, folders made and removed. Writing
itself is not seen, nor what TensorStore does in C++; but a checkpoint's arrays are opened and made durable
from Python after that, and so a kill can strike between the two.
"""

import itertools
import os
import re
import sys

FOLDER = {"os.rename": 2, "os.mkdir": 2, "os.remove": 1, "os.rmdir": 1}
"""Audited operations, and which argument is the descriptor of the folder that their path is in."""


def main() -> None:
    prefix, at, number, log, *argv = sys.argv[1:]
    descriptor, count = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), itertools.count(1)
    synced = os.fsync

    def note(operation: str, path: str) -> None:
        nonlocal at
        path = os.path.abspath(path)
        if path.startswith(prefix):
            # Names of temporary files are drawn.
            path = re.sub(r"[0-9a-f]{8}(?=[.](tmp|partial))", "*", path.removeprefix(prefix))
            line = f"{operation} {path}"
            os.write(descriptor, f"{line}\n".encode())
            if at is not None and (at == str(next(count)) or line.startswith(at)):
                at = None  # Only once: stopped, the process may be told to go on.
                os.kill(os.getpid(), int(number))

    def audit(event: str, args: tuple) -> None:
        if event == "open" and not isinstance(args[0], int):
            if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                note("open", os.fsdecode(args[0]))
        elif event in FOLDER:
            folder = args[FOLDER[event]]
            base = "" if folder < 0 else os.readlink(f"/proc/self/fd/{folder}")
            note(event, os.path.join(base, os.fsdecode(args[0])))

    def fsync(file: int) -> None:
        note("fsync", os.readlink(f"/proc/self/fd/{file}"))
        synced(file)

    sys.addaudithook(audit)
    os.fsync = fsync  # Which is not audited.
    sys.argv = ["scmkit", *argv]

    from scmkit_cli.main import main

    main()


if __name__ == "__main__":
    main()
