"""How plugins are found: one entry-point group, read as metadata alone."""

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points

from scmkit.errors import PluginError, did_you_mean

GROUP = "scmkit.plugins"
"""The entry-point group."""


@dataclass(frozen=True)
class Entry:
    """An installed plugin as its distribution's metadata describes it; nothing is imported."""

    name: str
    package: str
    version: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"plugin '{self.name}' of {self.package} {self.version}"


def entries() -> list[Entry]:
    """Every installed plugin, sorted by name and package."""
    return list(_entries(tuple(_stamp(folder) for folder in sys.path)))


def _stamp(folder: str) -> tuple[str, int]:
    """A folder and when it last changed: an installation since then is noticed."""
    try:
        return folder, os.stat(folder or ".").st_mtime_ns
    except OSError:
        return folder, 0


@lru_cache(maxsize=1)
def _entries(stamps: tuple[tuple[str, int], ...]) -> tuple[Entry, ...]:
    # Reading all metadata takes tens of milliseconds, and a recipe looks plugins up by the dozen.
    found = []
    for point in entry_points(group=GROUP):
        package, version = (
            ("?", "?") if point.dist is None else (point.dist.name, point.dist.version)
        )
        found.append(Entry(point.name, package, version, point))
    return tuple(sorted(found, key=lambda e: (e.name, e.package)))


def find(name: str) -> Entry:
    """The entry called `name`, or `PACKAGE:NAME` where two packages offer one name.

    Raises `PluginError` for an unknown or ambiguous name.
    """
    package, _, bare = name.rpartition(":")
    installed = entries()
    named = [e for e in installed if e.name == bare]
    matches = [e for e in named if not package or _same(e.package, package)]
    if not matches:
        if package and named:
            where = " and ".join(f"{e.package} {e.version}" for e in named)
            raise PluginError(
                f"no plugin '{bare}' in package '{package}': it is in {where} "
                f"(if '{package}' is missing: pip install {package})"
            )
        if package and not any(_same(e.package, package) for e in installed):
            raise PluginError(
                f"no plugin '{bare}': package '{package}' is not installed or has no plugins; "
                f"pip install {package}"
            )
        hint = did_you_mean(bare, {e.name for e in installed})
        raise PluginError(
            f"no plugin '{bare}'{hint} (`scmkit plugins list` shows what is installed)"
        )
    if len(matches) > 1:
        both = " and ".join(f"{e.package} {e.version}" for e in matches)
        raise PluginError(
            f"plugin '{bare}' is in {both}; pick one with --plugin {matches[0].package}:{bare}"
        )
    return matches[0]


def problem(entry: Entry, installed: Sequence[Entry]) -> str | None:
    """Why an entry among the `installed` cannot work, as far as can be told without importing it."""
    if sum(e.name == entry.name for e in installed) > 1:
        return f"name taken twice; use {entry.package}:{entry.name}"
    if not has_module(entry.entry_point.module):
        return f"no module '{entry.entry_point.module}'"
    return None


def has_module(name: str) -> bool:
    """Whether a module can be found; unlike `find_spec` alone, without importing its package."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for i, _ in enumerate(rest):
            if spec is None:
                break
            inside = spec.submodule_search_locations
            spec = PathFinder.find_spec(".".join([top, *rest[: i + 1]]), inside or [])
    except (ImportError, AttributeError, ValueError):
        return False
    return spec is not None


def first_line(error: BaseException) -> str:
    """The first line of an error's message: errors are shown on one line."""
    return next(iter(str(error).strip().splitlines()), "")


def _same(package: str, other: str) -> bool:
    """Whether two names are one to package indexes, which ignore case and kinds of hyphen."""
    one, two = (re.sub(r"[-_.]+", "-", name).lower() for name in (package, other))
    return one == two
