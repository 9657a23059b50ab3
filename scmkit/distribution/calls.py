"""Calls of the store that hold no process up: where the coordinator is gone they never return."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Unanswered(Exception):
    """A call has not returned in its time."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises, or `Unanswered` after so many seconds.

    Unlike the call itself, waiting for it lets signals be handled.
    """
    done = threading.Event()
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    if not done.wait(seconds):
        raise Unanswered
    if raised:
        raise raised[0]
    return returned[0]
