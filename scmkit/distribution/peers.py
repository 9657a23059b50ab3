"""What is known of the other processes, and when they are given up."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from scmkit.errors import UsageError, brief


@dataclass(frozen=True)
class Patience:
    """After how many seconds others are given up.

    **Attributes:**

    - `silence`: without a beat.
    - `stuck`: without a step, while all others wait for it.
    """

    silence: float = 30
    stuck: float = 600

    @property
    def beat(self) -> float:
        """The seconds between two beats."""
        return self.silence / 15

    @property
    def verdict(self) -> float:
        """The seconds in which it is known who is gone, if anybody is."""
        return 1.5 * self.silence

    @staticmethod
    def of_environment(environment: Mapping[str, str] = os.environ) -> "Patience":
        """As `SCMKIT_SILENCE` and `SCMKIT_STUCK` say. Raises `UsageError` where they are no numbers."""
        given = {"silence": "SCMKIT_SILENCE", "stuck": "SCMKIT_STUCK"}
        found = {field: environment[name] for field, name in given.items() if name in environment}
        try:
            patience = Patience(**{field: float(text) for field, text in found.items()})
        except ValueError:
            patience = Patience(silence=0)
        if not (0 < patience.silence < 1e6 and 0 < patience.stuck < 1e6):
            told = " and ".join(f"{given[field]}={brief(text)}" for field, text in found.items())
            raise UsageError(f"{told}: give seconds above 0, such as 30")
        return patience


@dataclass
class Peer:
    """What is known of a process.

    **Attributes:**

    - `host`, `pid`: where it runs.
    - `beat`, `changed`: its newest beat, and when that came.
    - `step`, `moved`: the step it has come to, if it trains and others may wait for it, and when it did.
    """

    host: str
    pid: int
    beat: int
    changed: float
    step: int | None
    moved: float

    def hear(self, beat: int, step: int | None, now: float) -> None:
        """Take note of what the store says of it."""
        if beat != self.beat:
            self.beat, self.changed = beat, now
        if step != self.step or step is None:
            self.step, self.moved = step, now


def silent(peers: Mapping[int, Peer], now: float, patience: Patience) -> list[int]:
    """Who has no beat."""
    late = {i: now - peer.changed for i, peer in peers.items()}
    if max(late.values(), default=0) <= patience.silence:
        return []
    # Those of one host go at once, and are not heard of at slightly different times.
    return [i for i, seconds in late.items() if seconds > patience.silence - 2 * patience.beat]


def stuck(peers: Mapping[int, Peer], now: float, patience: Patience) -> list[int]:
    """Who is behind all that wait for it, and has not moved for too long."""
    steps = {i: peer.step for i, peer in peers.items() if peer.step is not None}
    if len(steps) < len(peers) or len(set(steps.values())) < 2:
        return []
    behind = [i for i, step in steps.items() if step == min(steps.values())]
    return [i for i in behind if now - peers[i].moved > patience.stuck]
