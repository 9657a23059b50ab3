"""`metrics.jsonl`: one JSON object a line, always written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scmkit.errors import RunError
from scmkit.files import write_text


class MetricsFile:
    """Appends lines to a run's `metrics.jsonl`.

    Opening it at `step` drops the lines after that step, so that a resumed run repeats none. Raises
    `RunError` where it cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._path = path
        try:
            # Without a buffer: what a full disk refused must not come back when the file is closed.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line. Raises `RunError` if there is no room for it."""
        content = (json.dumps(line) + "\n").encode()
        try:
            # A disk that fills up takes a part, and says why at the next attempt.
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """Make the lines durable, as a checkpoint does that counts on them. Raises `RunError`."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _failed(self, error: OSError) -> RunError:
        return RunError(
            f"'{self._path}' cannot be written: {error.strerror}; free some space, then "
            f"`scmkit resume {self._path.parent}`"
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a line torn by a crash at its end is dropped."""
    return read_lines(path)[0]


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    """The lines of a metrics file up to the first that is none, and that one's number."""
    lines = []
    if path.exists():
        for number, text in enumerate(path.read_bytes().splitlines(), 1):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                return lines, number
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                return lines, number
            lines.append(line)
    return lines, None
