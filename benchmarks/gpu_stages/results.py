"""What `gpu.py` keeps: one JSON file, whole after every row, with each part's rows or its reason."""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

DONE, FAILED, LEFT = "done", "failed", "not started"

FILE = "results.json"

KERNELS = Path(__file__).parents[2] / "plugins" / "scmkit_attention"


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


def read(given: Path) -> tuple[Path, dict[str, Any]]:
    """A results.json, named itself or by its folder, and its content. Raises `OSError`, `ValueError`."""
    file = given / FILE if given.is_dir() else given
    content = json.loads(file.read_text())
    if not isinstance(content, dict) or not {"kernels", "parts"} <= content.keys():
        raise ValueError(f"{file} is no {FILE} of gpu.py")
    return file, content


def merged(entries: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """By stage and name, the newest of each part, a finished one before one that is not."""
    found: dict[tuple[str, str], Row] = {}
    for entry in entries:
        key = entry["stage"], entry["part"]
        if entry["status"] == DONE or found.get(key, {}).get("status") != DONE:
            found[key] = entry
    return found


class Recorded:
    """What earlier results hold of the same card; of rehearsals for a rehearsal, else of none."""

    def __init__(self, given: Iterable[Path], rehearsal: bool = False) -> None:
        found = [read(path) for path in given]
        self.found = [(f, c) for f, c in found if bool(c.get("rehearsal")) == rehearsal]

    def parts(self, card: str | None, lasting: Collection[str] = ()) -> dict[tuple[str, str], Row]:
        """What is known of each part; of stages that are not `lasting` only for the kernels that are here."""
        digest = kernels_digest()
        return merged(
            entry | {"file": file.name}
            for file, content in self._on(card)
            for entry in content["parts"]
            if content["kernels"] == digest or entry["stage"] in lasting
        )

    def folders(self, card: str | None) -> list[str]:
        """The folders of the results, where what was trained lies beside them."""
        return [str(file.parent.resolve()) for file, _ in self._on(card)]

    def _on(self, card: str | None) -> Iterator[tuple[Path, Row]]:
        return ((file, content) for file, content in self.found if content.get("card") == card)


def ceilings(entries: Iterable[Row]) -> dict[str, float]:
    """Measured ceilings by name, from the rows of stage a; the last of each."""
    rows = (row for entry in entries if entry["stage"] == "a" for row in entry["rows"])
    return {row["ceiling"]: row["value"] for row in rows if "ceiling" in row}
