"""Ctrl-C and SIGTERM as requests to stop after the current step."""

import signal
import threading
from types import FrameType, TracebackType

from scmkit.errors import Interrupted, Preempted, ScmkitError


class StopRequests:
    """While entered, the first SIGINT or SIGTERM is noted in `received`; a second one kills.

    Signals can only be caught in the main thread; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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

    def error(self, message: str) -> ScmkitError:
        """The exception that stands for the received signal."""
        kind = Preempted if self.received == signal.SIGTERM else Interrupted
        return kind(message)
