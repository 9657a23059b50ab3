"""What files may say: names that stay in their folder, and JSON and TOML within bounds."""

import json
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from scmkit.storage.inputs import open_input

LARGEST = 64 << 20
"""Bytes of a file of JSON; ten times what the manifest of the largest network has."""

LARGEST_TOML = 1 << 20
"""Characters of TOML, which people write: so much is parsed in a second."""

DEEPEST = 100
"""Levels of lists and tables within one another."""

RATIO, SMALL = 50, 64 << 20
"""Unpacked in memory, a file may grow by this factor; below this size in bytes, by any."""


def inside(root: Path, name: str) -> Path:
    """The path of a file by its name relative to a folder.

    Raises `ValueError` where that is elsewhere: an absolute name, one with `..`, or one behind a symbolic
    link out of the folder. The folder itself may be a link: the user named it.
    """
    parts = name.split("/")
    odd = "\0" in name or "\\" in name or ":" in name
    if odd or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"the name {name[:200]!r} leads out of the folder or is not plain")
    try:
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{name[:200]!r} is a link out of the folder")
    # What is no name to the system, or links that go round in circles.
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the name {name[:200]!r} cannot be followed ({error})") from None
    return path


def exists(path: Path) -> bool:
    """Whether something is at a path; not where it is none to the system, such as one that is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def read_bounded(path: Path) -> str:
    """The text of a file; raises `OSError`, or `ValueError` where it is too large or not UTF-8."""
    with open_input(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        return file.read(size).decode("utf-8")


def unpacked(path: Path, size: int) -> str | None:
    """What is wrong with holding `size` bytes of a compressed file in memory at once, if anything."""
    if size <= max(SMALL, RATIO * path.stat().st_size):
        return None
    return f"unpacked takes {size} bytes, over {RATIO} times the file's; it may be malicious"


def parse_json(text: str | bytes) -> Any:
    """JSON that says what it means; raises `ValueError` also for `NaN`, and for what is nested too deeply."""

    def refused(constant: str) -> Any:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        value = json.loads(text, parse_constant=refused)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    check_depth(value)
    return value


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON for any reader: numbers that are not finite, which JSON lacks, are null, and sets are lists."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_LONG_KEY = re.compile(
    rf"""(?<![\w-])((?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{DEEPEST}}}"""
)


def parse_toml(text: str) -> dict[str, Any]:
    """TOML; raises `ValueError` also for what is too large or nested too deeply."""
    if len(text) > LARGEST_TOML:
        raise ValueError(f"it is larger than {LARGEST_TOML >> 20} MiB")
    # The time that the parser takes for a key grows with the square of the dots in it.
    if _LONG_KEY.search(text):
        raise ValueError(f"it has a key of over {DEEPEST} parts")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raises `ValueError` for lists and tables within one another beyond `DEEPEST` levels."""
    level = [value]
    for _ in range(DEEPEST):
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        level = [v for values in inner for v in values]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")
