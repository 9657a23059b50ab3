"""What the command line makes of standard output, standard error and signals."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import typer

from scmkit.errors import Interrupted, Preempted, RunError, Stopped
from scmkit.storage.containment import to_json
from scmkit.telling import Unfailing


class _Results:
    """Standard output: where it cannot be written, the error says so."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._failure: RunError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._explained():
            return self.stream.write(text)

    def flush(self) -> None:
        with self._explained():
            self.stream.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        # Whoever tried whether it can be written may have kept the error to himself.
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            # What is left in its buffer would fail again when the process ends, and change its exit code.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            self._failure = RunError(
                f"standard output cannot be written: {error.strerror}; free some space or send it elsewhere"
            )
            raise self._failure from error


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """Standard error cannot fail from now on, and while this is entered standard output says why it does."""
    # Closed ones are None, and `print` would take the other for them.
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if not isinstance(sys.stderr, Unfailing):
        sys.stderr = Unfailing(sys.stderr)  # pyright: ignore[reportAttributeAccessIssue]
    if sys.stdout is not None and not isinstance(sys.stdout, _Results):
        sys.stdout = _Results(sys.stdout)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        if isinstance(sys.stdout, _Results):
            sys.stdout = sys.stdout.stream


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While entered, Ctrl-C and SIGTERM raise `Stopped`, which blames no plugin; a second one kills."""
    previous: dict[int, Any] = {}
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        received.append(number)
        raise Stopped(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, stop)
    try:
        yield
    except BaseException as error:
        # Python makes a `RuntimeError` of what is raised while a class is made, and others swallow it.
        if received and not isinstance(error, Stopped | Interrupted | Preempted):
            raise Stopped(received[0]) from error
        raise
    else:
        if received:
            raise Stopped(received[0])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_OUTPUT = "scmkit.output"


def alone(context: typer.Context, wanted: bool) -> bool:
    """The callback of `--json`: what plugins print goes to standard error, so that JSON is alone."""
    if wanted:
        context.meta[_OUTPUT] = sys.stdout
        context.with_resource(contextlib.redirect_stdout(sys.stderr))
    return wanted


def print_json(context: typer.Context, value: Any, *, indent: int | None = None) -> None:
    """A value as JSON on standard output; numbers that are not finite, which JSON lacks, are null."""
    typer.echo(to_json(value, indent=indent), file=context.meta[_OUTPUT])  # noqa: TID251
