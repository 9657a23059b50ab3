"""What is told beside the work: it must never end the work."""

import contextlib
from typing import Any


class Unfailing:
    """A text stream for what is only told: what cannot be written, as on a full disk, is left out.

    All else is the stream's own.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()
