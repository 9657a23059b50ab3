"""What `gpu.py` keeps: one JSON file, whole after every row, with each part's rows or its reason."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

DONE, FAILED, LEFT = "done", "failed", "not started"

KERNELS = Path(__file__).parents[2] / "scmkit" / "fused_attention"


def kernels_digest() -> str:
    """SHA-256 over the names and contents of the kernels' source files."""
    running = hashlib.sha256()
    for file in sorted(KERNELS.rglob("*.py")):
        running.update(f"{file.relative_to(KERNELS)}\n".encode() + file.read_bytes())
    return running.hexdigest()


class Results:
    """The file and what is in it."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {**about, "kernels": kernels_digest(), "parts": []}
        self.write()

    def begin(self, stage: str, part: str) -> Row:
        """A new part, which counts as failed until it is done."""
        entry = {"stage": stage, "part": part, "status": FAILED, "reason": "cut off", "rows": []}
        self.content["parts"].append(entry)
        return entry

    def leave(self, stage: str, part: str, reason: str) -> None:
        self.begin(stage, part).update(status=LEFT, reason=reason)
        self.write()

    def write(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(temporary, self.path)

    @property
    def parts(self) -> list[Row]:
        return self.content["parts"]


class Recorded:
    """What earlier results hold of the same kernels on the same card; nothing of a rehearsal."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.found = [(file, json.loads(file.read_text())) for file in files]
        for file, content in self.found:
            if not isinstance(content, dict) or not {"kernels", "parts"} <= content.keys():
                raise ValueError(f"{file} is no results.json of gpu.py")

    def parts(self, card: str | None) -> dict[tuple[str, str], Row]:
        """By stage and name, the newest of each part, a finished one before one that is not."""
        digest, found = kernels_digest(), {}
        for file, content in self.found:
            same = content["kernels"] == digest and content.get("card") == card
            if not same or content.get("rehearsal"):
                continue
            for entry in content["parts"]:
                key = entry["stage"], entry["part"]
                if entry["status"] == DONE or found.get(key, {}).get("status") != DONE:
                    found[key] = entry | {"file": file.name}
        return found


def ceilings(entries: Iterable[Row]) -> dict[str, float]:
    """Measured ceilings by name, from the rows of stage a; the last of each."""
    rows = (row for entry in entries if entry["stage"] == "a" for row in entry["rows"])
    return {row["ceiling"]: row["value"] for row in rows if "ceiling" in row}
