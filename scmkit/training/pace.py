"""How fast training goes."""

import contextlib
import time
from collections.abc import Iterator


class Pace:
    """Steps a second, without the time that goes into compiling, pictures and checkpoints."""

    def __init__(self) -> None:
        self._steps = 0
        self._since: float | None = None

    def start(self) -> bool:
        """Start the clock, unless it runs: when the first step is dispatched, and so has been compiled.

        Returns whether it was started.
        """
        if self._since is not None:
            return False
        self._since = time.perf_counter()
        return True

    def count(self) -> None:
        """Count a step that is done."""
        self._steps += 1

    def take(self) -> float:
        """The steps a second since the clock was started, or since the rate was last taken."""
        now = time.perf_counter()
        rate = self._steps / max(now - (self._since or now), 1e-9)
        self._steps, self._since = 0, now
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """For as long as this lasts the clock stands still."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if self._since is not None:
                self._since += time.perf_counter() - began
