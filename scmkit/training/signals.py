"""Ctrl-C and SIGTERM as requests to stop when all is saved."""

import signal
import threading
from types import FrameType, TracebackType

from scmkit.errors import Interrupted, Preempted, ScmkitError


class StopRequests:
    """While entered, the first SIGINT or SIGTERM is noted in `received`; a second one kills.

    Signals can only be caught in the main thread; elsewhere this does nothing. One that the process ignores,
    as a job in the background does with Ctrl-C, stays ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number

    def check(self, message: str) -> None:
        """Raises `Interrupted` or `Preempted` with the message, if a signal was received."""
        if self.received is not None:
            raise self.error(message)

    def error(self, message: str) -> ScmkitError:
        """The exception that stands for the received signal."""
        kind = Preempted if self.received == signal.SIGTERM else Interrupted
        return kind(message)
