"""The processes of one training: how many there are, and how they wait for each other."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from jax._src import distributed  # The store has no public door.

from scmkit.distribution.calls import within
from scmkit.errors import ScmkitError, UsageError

PATIENCE = 24 * 3600
"""Seconds that a process waits for the others. One that is gone is found much earlier, by the pulse."""


class PeerFailed(ScmkitError):
    """Another process of the same training came to a meeting with an error."""


def index() -> int:
    """The number of this process, from 0 on."""
    return distributed.global_state.process_id if joined() else 0


def count() -> int:
    """How many processes there are."""
    return distributed.global_state.num_processes or 1 if joined() else 1


def joined() -> bool:
    """Whether this process is one of several that train together."""
    return distributed.global_state.client is not None


def store() -> Any:
    """The store of short texts by name that all processes share; raises `RuntimeError` without others."""
    if (client := distributed.global_state.client) is None:
        raise RuntimeError("this process has not joined others")
    return client


_meetings: Counter[str] = Counter()


def meet(name: str, error: BaseException | None = None, says: str = "") -> list[str]:
    """Wait until every process has come to the meeting `name`, and return what each `says`, in order.

    All processes must come to the meetings of one name in the same order. Raises `error` where there is one,
    and in the other processes `PeerFailed` with its text.
    """
    if not joined():
        if error is not None:
            raise error
        return [says]
    _meetings[name] += 1
    place = f"scmkit/meeting/{name}/{_meetings[name]}"
    mine = {"says": says, "error": None if error is None else str(error) or type(error).__name__}
    store().key_value_set(f"{place}/{index()}", json.dumps(mine))
    within(PATIENCE, lambda: store().wait_at_barrier(f"{place}/come", 1000 * PATIENCE))
    told = {key: json.loads(text) for key, text in store().key_value_dir_get(place)}
    all_said = [told[f"{place}/{i}"] for i in range(count())]
    if error is not None:
        raise error
    for i, one in enumerate(all_said):
        if one["error"] is not None:
            raise PeerFailed(f"process {i}: {one['error']}")
    return [one["says"] for one in all_said]


def first() -> bool:
    """Whether this is the process that writes what there is one of: recipe, metrics, pictures, reports."""
    return index() == 0


def by_first(name: str, function: Callable[[], str]) -> str:
    """What the first process returns from a function, in every process, at the meeting `name`.

    An error of it is raised in the first, and `PeerFailed` in the others.
    """
    if not first():
        return meet(name)[0]
    try:
        said = function()
    except BaseException as error:
        meet(name, error)
        raise
    return meet(name, says=said)[0]


def agree(name: str, what: str, mine: str) -> None:
    """Raises `UsageError` in every process where they do not all come to a meeting with the same text."""
    told = meet(name, says=mine)
    for i, theirs in enumerate(told):
        if theirs != told[0]:
            raise UsageError(
                f"process {i} has another {what} than process 0; start all processes with one command, on "
                "the same files and versions, or each by itself with SCMKIT_PROCESSES=1"
            )
