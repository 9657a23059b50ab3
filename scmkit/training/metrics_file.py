"""`metrics.jsonl`: one JSON object a line, always written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scmkit.files import write_text


class MetricsFile:
    """Appends lines to a run's `metrics.jsonl`.

    Opening it at `step` drops the lines after that step, so that a resumed run repeats none.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line and flush it."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a line torn by a crash at its end is dropped."""
    lines = []
    if path.exists():
        for text in path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                break
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                break
            lines.append(line)
    return lines
