"""Packages of npm, read as `npm pack` leaves them or unpacked; nothing is fetched and nothing executed."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from scmkit.errors import DataError
from scmkit.storage.containment import LARGEST, parse_json, unpacked
from scmkit.storage.inputs import open_input

_MOST = 100_000
"""Files of one package."""


@dataclass(frozen=True)
class NpmPackage:
    """Some files of a package, by their path within it, and where they are from."""

    name: str
    version: str
    files: Mapping[str, bytes]
    source: Path

    def json(self, name: str) -> Any:
        """The value of one of the files; raises `DataError` where it is missing or no JSON."""
        if name not in self.files:
            raise DataError(f"{self.source}: '{name}' is missing; get the package again")
        try:
            return parse_json(self.files[name])
        except ValueError as error:
            raise DataError(f"{self.source}: '{name}' is damaged ({error})") from None


def found_package(folder: Path, name: str, version: str) -> Path | None:
    """Where a package lies in a folder, packed or not, under the names that npm gives it; None if nowhere."""
    stem = name.removeprefix("@").replace("/", "-")
    names = (f"{stem}-{version}.tgz", f"{stem}-{version}", stem, name, f"node_modules/{name}")
    return next((folder / one for one in names if os.path.lexists(folder / one)), None)


def read_package(path: Path, name: str, wanted: Callable[[str], bool]) -> NpmPackage:
    """The package at `path`, a `.tgz` or a folder, with those of its files whose paths are `wanted`.

    Raises `DataError` where it cannot be read, is another package, or unpacks to suspiciously much.
    """

    def kept(file: str) -> bool:
        return file == "package.json" or wanted(file)

    try:
        files = dict(_in_folder(path, kept) if path.is_dir() else _in_archive(path, kept))
    # What damaged archives make tarfile and zlib raise has no common base.
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a package of npm ({error})") from None
    package = NpmPackage(name, "", files, path)
    about = package.json("package.json")
    if not isinstance(about, dict) or about.get("name") != name:
        found = about.get("name") if isinstance(about, dict) else None
        raise DataError(f"{path}: it is the package {str(found)[:80]!r}, not '{name}'")
    return replace(package, version=str(about.get("version", "unknown"))[:80])


def _in_archive(path: Path, kept: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Files of a gzipped tar archive, whose paths all begin with one folder (npm's is `package`)."""
    with (
        open_input(path) as packed,
        _Measured(packed, path) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for count, member in enumerate(archive):
            _check(member.name, member.size, count)
            name = member.name.partition("/")[2]
            file = archive.extractfile(member) if member.isreg() and kept(name) else None
            if file is not None:
                yield name, file.read()


class _Measured(gzip.GzipFile):
    """The content of a gzipped file, whose reading raises `ValueError` where it is too much."""

    def __init__(self, packed: BinaryIO, path: Path) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._source, self._total = path, 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._total += len(data)
        if problem := unpacked(self._source, self._total):
            raise ValueError(problem)
        return data


def _in_folder(path: Path, kept: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Files of a folder that has `package.json`, itself or in `package`."""
    root = path / "package" if (path / "package" / "package.json").is_file() else path
    count = 0
    for folder, _, names in os.walk(root):
        for file in (Path(folder) / name for name in sorted(names)):
            count += 1
            if not kept(name := file.relative_to(root).as_posix()):
                continue
            with open_input(file) as stream:
                _check(name, os.fstat(stream.fileno()).st_size, count)
                yield name, stream.read()


def _check(name: str, size: int, count: int) -> None:
    if size > LARGEST:
        raise ValueError(f"its file {name[:80]!r} is larger than {LARGEST >> 20} MiB")
    if count > _MOST:
        raise ValueError(f"it has more than {_MOST} files")
