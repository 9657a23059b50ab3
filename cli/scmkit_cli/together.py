"""Commands that several processes run together: who joins, who prints, and how all of them end."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from socket import gethostname

from scmkit.distribution.surroundings import Place, place
from scmkit.errors import Interrupted, Preempted
from scmkit_cli.streams import stoppable

TOGETHER = ("train", "resume", "sample", "eval")
"""The commands whose processes join those they were started with; all others run by themselves."""


@contextlib.contextmanager
def together(
    argv: Sequence[str], debug: bool, explained: Callable[[BaseException], tuple[int, str | None]]
) -> Iterator[None]:
    """While entered, this process is one of those that it was started with, if there are any.

    **Arguments:**

    - `argv`: the command line.
    - `debug`: whether the traceback of an error is shown.
    - `explained`: the exit code and the line of an error.
    """
    command = next((word for word in argv if not word.startswith("-")), "")
    found = place() if command in TOGETHER else None
    if found is None:
        yield
        return
    from scmkit.distribution import pulse
    from scmkit.distribution.joining import join

    try:
        with _only_first_speaks(found):
            with stoppable():
                join(found)
            with _exit_of_zero() as exited:
                yield
            pulse.finish()
    except BaseException as error:
        code, line = explained(error)
        if line is not None and found.index:
            line = line.replace(
                "error: ", f"error: process {found.index} (host {gethostname()}): ", 1
            )
        shown = traceback.format_exc() if debug and line else line or ""
        pulse.leave(code, str(error), shown, _wait(error, found))
    if exited:
        raise exited[0]


@contextlib.contextmanager
def _exit_of_zero() -> Iterator[list[SystemExit]]:
    """Keeps the `SystemExit` of a command that ends well, until the others have ended, too."""
    exited: list[SystemExit] = []
    try:
        yield exited
    except SystemExit as error:
        if error.code:
            raise
        exited.append(error)


_RUNTIME = re.compile(
    "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE|FAILED_PRECONDITION)"
)
"""How errors of XLA begin that a lost process may cause; JAX makes errors of several types of them."""


def _wait(error: BaseException, found: Place) -> float:
    """For how many seconds another process may tell the same error, or turn out to be its cause."""
    from scmkit.distribution import pulse
    from scmkit.distribution.processes import PeerFailed

    cause: BaseException | None = error
    while cause is not None:
        if _RUNTIME.match(str(cause)):
            return pulse.verdict()
        if isinstance(cause, PeerFailed):
            return 10
        cause = cause.__cause__ or cause.__context__
    if found.index and isinstance(error, Interrupted | Preempted):
        return 10
    return 2 if found.index else 0


@contextlib.contextmanager
def _only_first_speaks(found: Place) -> Iterator[None]:
    """Of several processes only the first prints; what ends them is told past these streams."""
    with contextlib.ExitStack() as entered:
        output = entered.enter_context(open(os.devnull, "w"))
        if found.index:
            entered.enter_context(contextlib.redirect_stderr(output))
        elif sys.stdout is not None:
            own = os.dup(sys.stdout.fileno())
            as_before = {"encoding": sys.stdout.encoding, "errors": sys.stdout.errors}
            output = entered.enter_context(open(own, "w", **as_before))
        entered.enter_context(contextlib.redirect_stdout(output))
        # Libraries below Python tell on standard output whom they have connected to.
        os.dup2(2 if "NCCL_DEBUG" in os.environ else os.open(os.devnull, os.O_WRONLY), 1)
        yield
