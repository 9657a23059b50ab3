"""The pulse: a process that is dead, frozen, cut off or stuck is named within a minute, and all others end.

Every process writes a beat into the coordinator's store every few seconds. Process 0, which has the store,
looks whether the others' change; the others look whether its own does, and whether the store answers at all.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from scmkit.distribution import ending
from scmkit.distribution.ending import COMMON, ROOM, Note, note_in, settled
from scmkit.distribution.peers import Patience, Peer, silent, stuck
from scmkit.distribution.processes import PATIENCE, count, index, joined, store
from scmkit.errors import Preempted, UsageError


class Pulse:
    """The pulse of this process.

    **Attributes:**

    - `patience`: after which times others are given up.
    - `step`: the step that this process has come to.
    - `apart`: how many things it does for which others wait rightly.
    - `remedy`: what to do when training has ended.
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.step: int | None = None
        self.apart = 0
        self.remedy = "start the same command again"
        self._peers: dict[int, Peer] = {}
        self._beat = 0
        self._contact = time.monotonic()
        self._stopped = threading.Event()
        # An error that is told even if another process had one before.
        self._own: str | None = None

    def start(self) -> None:
        """Wait until all processes have a pulse, and start it."""
        self._tell()
        store().wait_at_barrier(ROOM, 1000 * PATIENCE)
        self._listen(ROOM)
        first = self._peers[0].host
        elsewhere = [i for i, peer in self._peers.items() if i and peer.host != first]
        # When the coordinator is gone, those on its host may be, and nobody can ask who is left.
        self._speaker = min(elsewhere, default=1)
        if index():
            self._peers = {0: self._peers[0]}
        for loop in (self._beating, self._watching):
            threading.Thread(target=loop, daemon=True).start()

    def stop(self) -> None:
        """From now on nobody is given up."""
        self._stopped.set()

    def leave(self, code: int, says: str, shown: str | None = None, wait: float = 0) -> NoReturn:
        """End this process with an error, and with it all others.

        **Arguments:**

        - `code`: the exit code.
        - `says`: the error.
        - `shown`: what is printed, by default the error.
        - `wait`: seconds in which it may turn out that another process is the cause.
        """
        self._own = (shown or says) if code == UsageError.code else None
        time.sleep(wait)
        mine = Note(index(), code, says)
        stands = settled(mine)
        if stands != mine:
            self._follow(stands)
        self._end(code, shown or says)

    def _end(self, code: int, shown: str | None) -> NoReturn:
        now = time.monotonic()
        gone = silent(self._peers, now, self.patience)
        living = [i for i in self._peers if i != index() and i not in gone]
        ending.end(code, shown, living, 3 * self.patience.beat + 2)

    def _follow(self, note: Note) -> NoReturn:
        other = self._own is not None and note.says not in self._own
        self._end(note.code, self._own if other else None)

    def _tell(self) -> None:
        self._beat += 1
        beat = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "beat": self._beat,
            "step": None if self.apart else self.step,
        }
        store().key_value_set(_place(index()), json.dumps(beat), allow_overwrite=True)

    def _listen(self, room: str) -> None:
        told = dict(store().key_value_dir_get(room))
        now = time.monotonic()
        for i in range(count()):
            if (text := told.get(_place(i))) is None:
                continue
            beat = json.loads(text)
            if i not in self._peers:
                self._peers[i] = Peer(**beat, changed=now, moved=now)
            self._peers[i].hear(beat["beat"], beat["step"], now)
        self._contact = now
        if (note := note_in(told)) is not None:
            self._follow(note)

    def _beating(self) -> None:
        room = COMMON if index() else ROOM
        while not self._stopped.wait(self.patience.beat):
            # An error is silence: it is for the watching thread to say for how long.
            with contextlib.suppress(RuntimeError):
                self._tell()
                self._listen(room)

    def _watching(self) -> None:
        """Look at clocks only, since a call of a store that is gone may never return."""
        before = time.monotonic()
        while not self._stopped.wait(self.patience.beat / 2):
            now = time.monotonic()
            if now - before > self.patience.silence / 2:
                # This process itself was stopped, and its clocks say nothing of the others.
                self._contact = now
                for peer in self._peers.values():
                    peer.changed = peer.moved = now
            before = now
            self._judge(now)

    def _judge(self, now: float) -> None:
        unanswered = now - self._contact
        if unanswered > self.patience.silence:
            if index():
                shown = self._verdict([0], f"has not been heard of for {unanswered:.0f} s")
                ending.end(Preempted.code, shown if index() == self._speaker else None)
            return
        others = {i: peer for i, peer in self._peers.items() if i != index()}
        if gone := silent(others, self._contact, self.patience):
            seconds = max(self._contact - others[i].changed for i in gone)
            self._give_up(gone, f"has not been heard of for {seconds:.0f} s")
        if behind := stuck(self._peers, self._contact, self.patience):
            at = self._peers[behind[0]]
            seconds = self._contact - at.moved
            self._give_up(behind, f"is stuck: others have waited {seconds:.0f} s at step {at.step}")

    def _give_up(self, who: list[int], why: str) -> NoReturn:
        self.leave(Preempted.code, self._verdict(who, why))

    def _verdict(self, who: list[int], why: str) -> str:
        named = [f"process {i} (host {(p := self._peers[i]).host}, pid {p.pid})" for i in who[:4]]
        more = f" and {len(who) - 4} more" if len(who) > 4 else ""
        return f"error: {', '.join(named)}{more} {why}; every process stops: {self.remedy}"


def _place(process: int) -> str:
    return f"{ROOM}/own/{process}" if process else f"{COMMON}/beat"


_pulse: Pulse | None = None


def start(patience: Patience) -> None:
    """Start the pulse of a process that has joined others, once all have."""
    global _pulse
    _pulse = Pulse(patience)
    _pulse.start()


def at(step: int) -> None:
    """The training loop has come to a step. Who stays behind all others for long is stuck."""
    if _pulse is not None:
        _pulse.step = step


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """While entered this process does something of its own, for which others may wait as long as it takes."""
    if _pulse is None:
        yield
        return
    _pulse.apart += 1
    try:
        yield
    finally:
        _pulse.apart -= 1


def resumable(run: Path) -> None:
    """From now on there is a checkpoint of the run, with which training can be continued."""
    if _pulse is not None:
        _pulse.remedy = f"continue with `scmkit resume {run}`"


def leave(code: int, says: str, shown: str | None = None, wait: float = 0) -> NoReturn:
    """End this process with an error and with it all others, as `Pulse.leave` does."""
    if _pulse is None or not joined():
        ending.end(code, shown or says)
    _pulse.leave(code, says, shown, wait)


def verdict() -> float:
    """The seconds in which it turns out whether another process is the cause of an error."""
    return 0 if _pulse is None else _pulse.patience.verdict


def finish() -> None:
    """Wait until all processes have come to their end, and stop the pulse."""
    if _pulse is not None and count() > 1:
        ending.meet_at_the_end()
        _pulse.stop()
