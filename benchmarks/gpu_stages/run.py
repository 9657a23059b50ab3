"""Runs stages within a budget: what fits is begun, what takes too long is killed, every row is kept."""

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_stages.plan import STAGES, STARTUP, Part, Stage, stage_end
from gpu_stages.processes import PartFailed, Worker
from gpu_stages.results import DONE, FAILED, LEFT, Recorded, Results, Row, ceilings
from gpu_stages.worker import Context

CARD = STAGES[0].parts[0]
"""Always run, first: whether the card works, and what it is."""

REHEARSAL = 600.0
"""Seconds for a part in a rehearsal, on whatever machine that is."""


@dataclass
class Runner:
    """One visit to a card."""

    results: Results
    recorded: Recorded
    env: Mapping[str, str]
    out: Path
    budget: float
    rehearse: bool
    data: str | None
    began: float = field(default_factory=time.monotonic)
    worker: Worker | None = None
    earlier: list[str] = field(default_factory=list)
    """Folders of earlier visits to the same card."""
    letter: str = ""
    """The stage whose process `worker` is."""

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def run(self, stages: list[Stage]) -> bool:
        """All of them in turn; returns whether there is a card at all."""
        try:
            return self._run(stages)
        finally:
            self._close()

    def _run(self, stages: list[Stage]) -> bool:
        self._stage(STAGES[0], [CARD], self.budget)
        entry = self.results.parts[0]
        if entry["status"] != DONE:
            return False
        self.results.content |= {k: entry["rows"][0][k] for k in ("card", "environment")}
        card = entry["rows"][0]["card"]
        lasting = [stage.letter for stage in stages if not stage.by_kernels]
        known = self.recorded.parts(card, lasting)
        self.earlier = self.recorded.folders(card)
        self.results.content["earlier"] = [e for e in known.values() if e["status"] == DONE]
        for i, stage in enumerate(stages):
            wanted = [part for part in stage.parts if part is not CARD]
            if self.rehearse:
                wanted = [part for part in wanted if part.rehearsed]
            before = {p.name: known.get((stage.letter, p.name), {}).get("status") for p in wanted}
            pending = [part for part in wanted if before[part.name] != DONE]
            # What failed before would most likely fail again, so the rest comes first.
            awaited = {part.after for part in wanted}
            pending.sort(key=lambda p: before[p.name] == FAILED and p.name not in awaited)
            end = stage_end(stage, self.now, self.budget, last=i == len(stages) - 1)
            self._stage(stage, pending, end)
        return True

    def _stage(self, stage: Stage, parts: list[Part], end: float) -> None:
        if stage.letter != self.letter:
            self._close()
            self.letter = stage.letter
        for part in parts:
            start = 0.0 if self.worker is not None and self.worker.alive else STARTUP
            left = end - self.now - start
            if part.after is not None and not self._done(stage, part.after):
                self.results.leave(stage.letter, part.name, f"waits for {part.after}")
                continue
            if not self.rehearse and left < part.needs:
                why = f"needs {part.needs + start:.0f} s of {max(0, end - self.now):.0f} s left"
                self.results.leave(stage.letter, part.name, why)
                continue
            with open(self.out / "log.txt", "ab") as log:
                log.write(f"\n== {stage.letter}: {part.name}\n".encode())
                log.flush()
                if start:
                    self.worker = Worker(self.env, log)
            # A process that is slow to start takes its time from what is left for the part.
            limit = min(left, REHEARSAL) if self.rehearse else part.limit(left)
            self._part(stage, part, limit + start)

    def _done(self, stage: Stage, name: str) -> bool:
        entries = [*self.results.content.get("earlier", ()), *self.results.parts]
        of = [entry for entry in entries if (entry["stage"], entry["part"]) == (stage.letter, name)]
        return any(entry["status"] == DONE for entry in of)

    def _close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def _part(self, stage: Stage, part: Part, limit: float) -> None:
        assert self.worker is not None
        started = self.now
        entry = self.results.begin(stage.letter, part.name)
        known = ceilings([*self.results.content.get("earlier", ()), *self.results.parts])
        context = Context(self.rehearse, self.out, limit, self.data, self.earlier, known)
        request: dict[str, Any] = {"rows": part.rows, "given": part.given}
        request["context"] = asdict(context) | {"out": str(self.out)}
        try:
            for row in self.worker.rows(request, limit):
                entry["rows"].append(row)
                self.results.write()
        except PartFailed as failure:
            entry["reason"] = str(failure)
        else:
            entry["status"] = DONE
            del entry["reason"]
        entry["seconds"] = round(self.now - started, 1)
        self.results.write()
        what = f"{part.name}: {entry['status']} in {entry['seconds']:.0f} s"
        found = [row["line"] for row in entry["rows"] if "line" in row]
        said = entry.get("reason", found[-1] if found else "").partition("\n")[0][:120]
        print(f"{self.now:5.0f} s  {stage.letter}  {what}: {said}", file=sys.stderr, flush=True)


def table(parts: list[Row]) -> str:
    """What was found, a line for each row that has one, and what was not done."""
    lines: list[str] = []
    for stage in STAGES:
        entries = [entry for entry in parts if entry["stage"] == stage.letter]
        if not entries:
            continue
        lines.append(f"{stage.letter}  {stage.title}")
        for entry in entries:
            lines += [f"   {row['line']}" for row in entry["rows"] if "line" in row]
            if entry["status"] == FAILED:
                why = entry["reason"].splitlines()[0][:150]
                lines.append(f"   {entry['part']}: failed: {why}")
        left = [entry for entry in entries if entry["status"] == LEFT]
        if left:
            first = f"{left[0]['part']} ({left[0]['reason']})"
            lines.append(f"   {len(left)} of {len(stage.parts)} parts not started, first {first}")
    return "\n".join(lines)
