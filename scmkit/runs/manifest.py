"""The manifest of a checkpoint: what it holds, and the proof that nothing of it has changed."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scmkit.storage.containment import all_inside, parse_json, read_bounded
from scmkit.storage.files import sync_directory, write_durably

FORMAT = 1
"""The version of the layout on disk."""

MANIFEST = "COMMIT.json"
"""The manifest's file name. It is written last: a directory without it is no checkpoint."""

NOTES = "notes.json"
"""The file of a checkpoint that the manifest leaves out: what differs between runs of one seed."""

_THREADS = 32  # They wait for the disk: many fsyncs at once share one commit of its journal.


class Damage(Exception):
    """Why a directory is not the checkpoint it should be; the caller adds path and remedy."""


@dataclass(frozen=True)
class Manifest:
    """The content of `COMMIT.json`."""

    step: int
    metadata: dict[str, Any]
    leaves: dict[str, dict[str, Any]]
    """For each leaf `dtype` and `shape`, and `key` (the implementation) for a PRNG key."""
    files: dict[str, dict[str, Any]]
    """For each file, relative to the checkpoint, `size` in bytes and `sha256`."""


def commit(
    root: Path,
    step: int,
    metadata: Mapping[str, Any],
    leaves: dict[str, dict[str, Any]],
    files: dict[str, dict[str, Any]],
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write the notes, if any, and the manifest of files that are durable, and make all names durable.

    Raises `OSError` where the disk fails, `TypeError` or `ValueError` if metadata is not JSON.
    """
    # Through JSON once, so that what is hashed is what a reader will see (tuples are lists there).
    plain = json.loads(json.dumps(dict(metadata), allow_nan=False))
    document = asdict(Manifest(step, plain, leaves, files)) | {"format": FORMAT}
    if notes is not None:
        write_durably(root / NOTES, json.dumps(dict(notes), allow_nan=False).encode() + b"\n")
    write_durably(root / MANIFEST, _seal(document)[0])
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(sync_directory, [Path(folder) for folder, _, _ in os.walk(root)]))


def sealed(root: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Make files under `root` durable, and return their records for the manifest. Raises `OSError`."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _record(root / name), names), strict=True))


def read_manifest(root: Path) -> tuple[Manifest, str]:
    """The manifest under `root` and its SHA-256. Raises `Damage`."""
    try:
        raw = read_bounded(root / MANIFEST)
    except FileNotFoundError:
        missing = f"has no {MANIFEST}" if root.is_dir() else "does not exist"
        raise Damage(f"{missing}, so it is not a complete checkpoint") from None
    except OSError as error:
        raise Damage(f"{MANIFEST} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise Damage(f"{MANIFEST} is damaged ({error})") from None
    try:
        document = parse_json(raw)
        digest = document.pop("sha256")
        version = document["format"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damage(f"{MANIFEST} is damaged (not a manifest)") from None
    if version != FORMAT:
        raise Damage(f"has format {version!r}, and this scmkit reads format {FORMAT}")
    # The first comparison covers what parses to the same content, such as a changed blank.
    if _seal(document) != (raw.encode(), digest):
        raise Damage(f"{MANIFEST} is damaged (its own SHA-256 does not match)")
    del document["format"]
    try:
        manifest = Manifest(**document)
        _check(root, manifest)
    # A manifest with a fitting digest is no proof of who wrote it.
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise Damage(f"{MANIFEST} is damaged ({error})") from None
    return manifest, digest


def _check(root: Path, manifest: Manifest) -> None:
    """Raises `ValueError` or the like for names that leave the checkpoint, and records of other types."""
    if type(manifest.step) is not int or not isinstance(manifest.metadata, dict):
        raise ValueError("its step or its metadata is of another type")
    all_inside(root, (*manifest.files, *manifest.leaves))
    for name, file in manifest.files.items():
        if type(file["size"]) is not int or not isinstance(file["sha256"], str):
            raise ValueError(f"the record of file '{name}' is of another type")
    for name, leaf in manifest.leaves.items():
        sides = leaf["shape"]
        whole = isinstance(sides, list) and all(type(n) is int and n >= 0 for n in sides)
        if (
            not whole
            or not isinstance(leaf["dtype"], str)
            or not isinstance(leaf.get("key", ""), str)
        ):
            raise ValueError(f"the record of leaf '{name}' is of another type")


def verify(root: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare `files`, a part of the manifest, with what is on disk. Raises `Damage`."""
    with ThreadPoolExecutor() as pool:
        problems = pool.map(lambda item: _problem(root / item[0], item[1]), files.items())
        for name, problem in zip(files, problems, strict=True):
            if problem:
                raise Damage(f"file '{name}' {problem}")


def _record(path: Path) -> dict[str, Any]:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        return {
            "size": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _problem(path: Path, record: Mapping[str, Any]) -> str | None:
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "is no regular file"
        if size != record["size"]:
            return f"has {size} bytes instead of {record['size']}"
        with path.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == record["sha256"]
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if intact else "is damaged (its SHA-256 does not match)"


def _seal(document: Mapping[str, Any]) -> tuple[bytes, str]:
    """The text of a manifest with its SHA-256 in it, which is that of the text without, and the SHA-256."""
    bare = json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
    digest = hashlib.sha256(bare).hexdigest()
    # Where the sorted names have it; to write the whole document twice would take twice as long.
    return bare.replace(b'\n "step"', f'\n "sha256": "{digest}",\n "step"'.encode(), 1), digest
