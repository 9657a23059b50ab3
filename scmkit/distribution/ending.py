"""How processes that train together end where one of them cannot go on: all at once, and told once.

The first to know writes a note into the store; the others find it at their next beat. Nobody waits for JAX,
whose own end is a meeting of all processes.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import NoReturn

from scmkit.distribution.calls import Unanswered, within
from scmkit.distribution.processes import PATIENCE, index, store
from scmkit.telling import Unfailing

ROOM = "scmkit/pulse"
"""Where in the store the beats are, the note, and who has left."""

COMMON = f"{ROOM}/common"
"""The part of it that all processes read."""

_NOTE, _GONE = f"{COMMON}/end", f"{ROOM}/gone"


@dataclass(frozen=True)
class Note:
    """Why everybody ends, as the first to know wrote it.

    **Attributes:**

    - `process`: who wrote it, and prints it.
    - `code`: the exit code of all.
    - `says`: the error.
    """

    process: int
    code: int
    says: str


def note_in(told: dict[str, str]) -> Note | None:
    """The note among texts of the store."""
    return Note(**json.loads(told[_NOTE])) if _NOTE in told else None


def settled(note: Note) -> Note:
    """The note that stands: this one, or the one that another process wrote before.

    Where the store does not answer it is this one.
    """
    with contextlib.suppress(Unanswered, RuntimeError):
        try:
            within(5, lambda: store().key_value_set(_NOTE, json.dumps(asdict(note))))
        except RuntimeError:  # There is one.
            found = within(5, lambda: dict(store().key_value_dir_get(COMMON)))
            return note_in(found) or note
    return note


_ending = threading.Lock()


def end(
    code: int, shown: str | None, living: Collection[int] = (), patience: float = 0
) -> NoReturn:
    """End this process at once, whatever its other threads do.

    **Arguments:**

    - `code`: the exit code.
    - `shown`: what is printed on standard error.
    - `living`: the other processes that will end too.
    - `patience`: seconds in which they find out. The process with the store stays for as long.
    """
    _ending.acquire()  # Never released: one thread ends the process.
    with contextlib.suppress(BaseException):
        within(3, lambda: _print(shown))
    with contextlib.suppress(BaseException):
        _say_goodbye(living, patience)
    os._exit(code)


def _print(shown: str | None) -> None:
    if shown:
        print(shown, file=Unfailing(sys.__stderr__), flush=True)
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(Exception):
            stream.flush()


def _say_goodbye(living: Collection[int], patience: float) -> None:
    until = time.monotonic() + patience
    if index() > 0 and living:
        within(2, lambda: store().key_value_set(f"{_GONE}/{index()}", ""))
    while index() == 0 and time.monotonic() < until:
        gone = dict(within(2, lambda: store().key_value_dir_get(_GONE)))
        if all(f"{_GONE}/{i}" in gone for i in living):
            return
        time.sleep(0.1)


def meet_at_the_end() -> None:
    """Wait for all processes to come to their end; raises `RuntimeError` where the coordinator fails."""
    within(PATIENCE, lambda: store().wait_at_barrier("scmkit/end", 1000 * PATIENCE))
