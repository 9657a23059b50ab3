"""What is told beside the work: it must never end the work."""

import contextlib
from typing import Any


class Unfailing:
    """A text stream for what is only told: what cannot be written, as on a full disk, is left out.

    So is everything where the stream is None, as Python has it for one that is closed at its start.

    All else is the stream's own.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._passed_over():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._passed_over():
            self._stream.flush()

    def _passed_over(self) -> contextlib.AbstractContextManager[None]:
        # A closed one raises `ValueError`, and one that the process was started without is None.
        return contextlib.suppress(OSError, ValueError, AttributeError)
