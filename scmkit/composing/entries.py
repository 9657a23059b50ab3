"""How plugins are found: one entry-point group, read as metadata alone."""

import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, EntryPoint, distributions

from scmkit.errors import PluginError, did_you_mean

GROUP = "scmkit.plugins"
"""The entry-point group."""


@dataclass(frozen=True)
class Entry:
    """An installed plugin as its distribution's metadata describes it; nothing is imported.

    `broken` says what is wrong with that metadata, if anything.
    """

    name: str
    package: str
    version: str
    entry_point: EntryPoint
    broken: str | None = None

    def __str__(self) -> str:
        return f"plugin '{self.name}' of {self.package} {self.version}"


def entries() -> list[Entry]:
    """Every installed plugin, sorted by name and package."""
    return list(_entries(tuple(_stamps(sys.path))))


def _stamps(folders: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each folder and when it last changed: an installation since then is noticed."""
    for folder in folders:
        try:
            yield folder, os.stat(folder or ".").st_mtime_ns
        except OSError:
            yield folder, 0


@lru_cache(maxsize=1)
def _entries(stamps: tuple[tuple[str, int], ...]) -> tuple[Entry, ...]:
    # Reading all metadata takes tens of milliseconds, and a recipe looks plugins up by the dozen.
    packages: dict[str, list[Entry]] = {}
    for distribution in distributions():
        if offered := _offered(distribution):
            # As Python does it: what comes first on the path hides others of its name.
            packages.setdefault(_normal(offered[0].package), offered)
    found = [entry for offered in packages.values() for entry in offered]
    return tuple(sorted(found, key=lambda e: (e.name, e.package)))


def _offered(distribution: Distribution) -> list[Entry]:
    """The plugins of one distribution, whose damage must not hide those of others."""
    try:
        points = list(distribution.entry_points.select(group=GROUP))
    except Exception as error:
        # Where no plugin can be named, the package is.
        package, version, _ = _identity(distribution)
        broken = f"its entry_points.txt cannot be read ({first_line(error)})"
        return [Entry(package, package, version, EntryPoint(package, "", GROUP), broken)]
    if not points:
        return []
    package, version, broken = _identity(distribution)
    return [Entry(p.name, package, version, p, broken or _malformed(p)) for p in points]


def _identity(distribution: Distribution) -> tuple[str, str, str | None]:
    """Name and version, from the folder's name where there is no METADATA, and then what is wrong."""
    try:
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            return name, version, None
    except Exception:
        pass  # What is raised differs between versions of Python.
    folder = getattr(getattr(distribution, "_path", None), "name", "")
    name, _, version = folder.removesuffix(".dist-info").removesuffix(".egg-info").partition("-")
    return name or "?", version or "?", "its package has no readable METADATA"


def _malformed(point: EntryPoint) -> str | None:
    try:
        return None if point.module else "its entry point names no module"
    except Exception:
        return f"its entry point '{point.value}' is not MODULE:ATTRIBUTE"


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
    if entry.broken:
        return entry.broken
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
    return _normal(package) == _normal(other)


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
