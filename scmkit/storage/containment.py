"""Bounds on what a file may say: names stay in their folder, JSON and TOML stay small and shallow."""

import json
import math
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scmkit.storage.inputs import open_input

LARGEST = 64 << 20
"""The most bytes of a JSON file: ten times those of the largest network's manifest."""

LARGEST_TOML = 1 << 20
"""The most characters of a TOML file, which people write: so many are parsed in a second."""

DEEPEST = 100
"""The most levels of lists and tables within one another."""

RATIO, SMALL = 50, 64 << 20
"""The factor by which a file may grow when it is unpacked in memory, and the size in bytes up to which it may
grow by any."""


def inside(root: Path, name: str) -> Path:
    """The path of the file `name` in a folder.

    Raises `ValueError` for a name that leads elsewhere: an absolute one, one with `..`, or one behind a
    symbolic link out of the folder. The folder itself may be a link: the user named it.
    """
    all_inside(root, (name,))
    return root / name


def all_inside(root: Path, names: Iterable[str]) -> None:
    """Raises `ValueError` if one of several names leads out of a folder, as `inside` does for one."""
    # Most names share folders with others, and meet no link below the root.
    links: dict[str, bool] = {}
    for name in names:
        parts = name.split("/")
        odd = "\0" in name or "\\" in name or ":" in name
        if odd or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"the name {name[:200]!r} leads out of the folder or is not plain")
        place = str(root)
        for part in parts:
            place = f"{place}/{part}"
            if place not in links:
                links[place] = os.path.islink(place)
            if links[place]:
                _follow(root, name)
                break


def _follow(root: Path, name: str) -> None:
    try:
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{name[:200]!r} is a link out of the folder")
    # The system refuses the name, or its links go round in circles.
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the name {name[:200]!r} cannot be followed ({error})") from None


def exists(path: Path) -> bool:
    """Whether something is at a path; False for a path that the system refuses, such as too long a one."""
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
    """Why `size` bytes of a compressed file cannot be held in memory at once; None where they can."""
    if size <= max(SMALL, RATIO * path.stat().st_size):
        return None
    return f"unpacked takes {size} bytes, over {RATIO} times the file's; it may be malicious"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; raises `ValueError` also for `NaN`, and for what is nested too deeply."""

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
