"""What is derived from a data set, such as features of it: where it is kept, and what it belongs to."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from scmkit.data import Store, digest_of
from scmkit.data.digest import LIMIT
from scmkit.data.layout import METADATA_FILE
from scmkit.errors import DataError, RunError
from scmkit.interfaces import AbstractDataset, DataDigest, Split, SplitDigest
from scmkit.storage.containment import inside, parse_json, read_bounded
from scmkit.storage.files import write_text
from scmkit.terminal import say
from scmkit.weights import read_weights, write_safetensors

_SLOW = 4 << 30
"""Bytes of a store whose reading is told."""


def cache_directory() -> Path:
    """`$SCMKIT_CACHE`, else `$XDG_CACHE_HOME/scmkit`, else `~/.cache/scmkit`."""
    if given := os.environ.get("SCMKIT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scmkit"


def directory_of(dataset: AbstractDataset) -> Path:
    """Where things derived from a data set are kept.

    `derived/` in a store's folder; for other data sets, and stores that cannot be written to, a folder of the
    user's cache named after the data's digest.
    """
    if isinstance(dataset, Store):
        beside = dataset.path / "derived"
        try:
            inside(dataset.path, "derived")  # A link out of the store is not followed.
            beside.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=beside):
                return beside
        except (OSError, ValueError):
            pass
    return cache_directory() / digest(dataset)[:32]


def data_digest(dataset: AbstractDataset) -> DataDigest:
    """What a data set is known again by, cheaply.

    A store's was recorded by its writer, and holds while no file is younger than that record. Else it is read
    once, and the result remembered in the user's cache for as long as path, metadata, and size and
    modification time of every file stay the same. Of other data see `scmkit.data.digest_of`: above 256 MiB a
    part stands for all.
    """
    if not isinstance(dataset, Store):
        return digest_of(dataset, limit=LIMIT)
    recorded = dataset.metadata.digests
    if recorded is not None and _holds(dataset, recorded):
        return DataDigest(recorded["train"], recorded["test"], dataset.class_names)
    remembered = cache_directory() / "digests" / f"{_fingerprint(dataset)}.json"
    with contextlib.suppress(OSError, ValueError):
        return TypeAdapter(DataDigest).validate_python(parse_json(read_bounded(remembered)))
    stored = sum(dataset.metadata.files.values())
    if stored > _SLOW:
        say(f"reading the {stored >> 30} GiB of '{dataset.path}' once, to know them again")
    found = digest_of(dataset)
    try:
        write_text(remembered, json.dumps(asdict(found)))
    except RunError as error:
        say(f"{error}; the digest of '{dataset.path}' is not remembered")
    return found


def digest(dataset: AbstractDataset) -> str:
    """SHA-256 over shape, classes, sizes, labels and samples of both splits, as they are read."""
    found = data_digest(dataset) if isinstance(dataset, Store) else digest_of(dataset)
    # What the classes are called changes nothing that is derived.
    content = [dataset.shape, dataset.num_classes, asdict(found.train), asdict(found.test)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _holds(store: Store, recorded: Mapping[Split, SplitDigest]) -> bool:
    """Whether a record is of the store as it is now, as far as sizes and times tell."""
    written = (store.path / METADATA_FILE).stat().st_mtime_ns
    return {split: part.size for split, part in recorded.items()} == store.metadata.sizes and all(
        (store.path / name).stat().st_mtime_ns <= written for name in store.metadata.files
    )


def _fingerprint(store: Store) -> str:
    files = [(name, (store.path / name).stat()) for name in sorted(store.metadata.files)]
    told = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in files]
    content = [str(store.path.resolve()), store.metadata.to_json(), told]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and values, in the order of the names."""
    running = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        running.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        running.update(array.tobytes())
    return running.hexdigest()


def keep(
    directory: Path, kind: str, about: Mapping[str, str], arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes arrays under all that they depend on; where that is impossible, says so on stderr."""
    try:
        write_safetensors(
            _file(directory, kind, about), arrays, {**about, "sha256": digest_arrays(arrays)}
        )
    except RunError as error:
        say(f"{error}; it will be computed again the next time")


def recall(directory: Path, kind: str, about: Mapping[str, str]) -> dict[str, np.ndarray] | None:
    """The arrays that `keep` wrote under the same name and `about`; None where there are none to trust.

    A file that is damaged, was changed or says that it depends on something else is passed over, and stderr
    told.
    """
    path = _file(directory, kind, about)
    if not path.exists():
        return None
    try:
        file = read_weights(path)
    except DataError as error:
        say(f"{error}; computing its content again")
        return None
    arrays = dict(file.arrays)
    if file.metadata != {**about, "sha256": digest_arrays(arrays)}:
        say(f"'{path}' was changed or is not what its name says; computing its content again")
        return None
    return arrays


def _file(directory: Path, kind: str, about: Mapping[str, str]) -> Path:
    key = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()
    return directory / f"{kind}-{key[:32]}.safetensors"
