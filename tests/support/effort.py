"""How much processor time a call takes that no other test had a part in."""

import contextlib
import gc
import time
from collections.abc import Iterator


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Asserts that the block takes less processor time of this thread.

    Objects from before are frozen meanwhile: a full collection of all that other tests left in memory takes
    seconds, and falls on whoever allocates next.
    """
    gc.freeze()
    start = time.thread_time()
    try:
        yield
        taken = time.thread_time() - start
    finally:
        gc.unfreeze()
    assert taken < seconds, f"{taken:.1f} s of processor time"
