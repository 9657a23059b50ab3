"""`metrics.jsonl`: one JSON object a line, always written."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from scmkit.distribution import processes
from scmkit.errors import RunError
from scmkit.storage.containment import check_depth, to_json
from scmkit.storage.files import write_text

METRICS = "metrics"
"""The key in a checkpoint's notes of the file's digest."""

LONGEST = 1 << 20
"""Bytes of a line; a real one has some hundred."""


class MetricsFile:
    """Appends lines to a run's `metrics.jsonl`.

    Opening it at `step` drops the lines after that step, so that a resumed run repeats none. Raises
    `RunError` where the file cannot be written, with the advice to resume the run `whole`.
    """

    def __init__(self, path: Path, step: int, *, whole: Path) -> None:
        self._path, self._whole = path, whole
        self._open(step)

    def _open(self, step: int) -> None:
        kept = [line for line in read_metrics(self._path) if line["step"] <= step]
        text = "".join(to_json(line) + "\n" for line in kept)
        write_text(self._path, text)
        self._size, self._hash = len(text), hashlib.sha256(text.encode())
        try:
            # Without a buffer: what a full disk refused must not come back when the file is closed.
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def rewind(self, step: int) -> None:
        """Drop the lines after a step, from which training goes on."""
        self._file.close()
        self._open(step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line. Raises `RunError` if there is no room for it."""
        content = (to_json(line) + "\n").encode()
        self._size += len(content)
        self._hash.update(content)
        try:
            # A disk that fills up takes a part, and says why at the next attempt.
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            raise self._failed(error) from error

    def digest(self) -> dict[str, Any]:
        """How many `bytes` the file has, and their `sha256`: what `changed` compares it with."""
        return {"bytes": self._size, "sha256": self._hash.hexdigest()}

    def sync(self) -> None:
        """Make the lines durable, before a checkpoint that counts on them is saved. Raises `RunError`."""
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
            f"`scmkit resume {self._whole}`"
        )


class _Unwritten:
    """The metrics of a process beside the first, which writes them."""

    def rewind(self, step: int) -> None: ...
    def write(self, line: Mapping[str, Any]) -> None: ...
    def digest(self) -> dict[str, Any]:
        return {}

    def sync(self) -> None: ...
    def close(self) -> None: ...


def metrics_file(path: Path, step: int, *, whole: Path) -> MetricsFile:
    """A run's metrics, opened as `MetricsFile` says; of several processes only the first one writes them."""
    if processes.first():
        return MetricsFile(path, step, whole=whole)
    return cast(MetricsFile, _Unwritten())


def changed(path: Path, digest: Mapping[str, Any]) -> bool:
    """Whether a metrics file begins otherwise than when `digest` was taken. Raises `OSError`."""
    running, left = hashlib.sha256(), digest["bytes"]
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, LONGEST))):
            running.update(block)
            left -= len(block)
    return left != 0 or running.hexdigest() != digest["sha256"]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a line torn by a crash at its end is dropped."""
    return [line for line in read_lines(path) if line is not None]


def read_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of a metrics file, one at a time; `None` for the first that is torn, and then no more."""
    if not path.exists():
        return
    if not path.is_file():
        yield None
        return
    with path.open("rb") as file:
        while text := file.readline(LONGEST + 1):
            line = _line(text)
            yield line
            if line is None:
                return


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text) if len(text) <= LONGEST else None
        check_depth(line)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None
