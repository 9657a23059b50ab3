"""What is derived from a data set, such as features of it: where it is kept, and what it belongs to."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scmkit.containment import inside
from scmkit.data import Store
from scmkit.errors import DataError, RunError
from scmkit.files import write_text
from scmkit.interfaces import AbstractDataset
from scmkit.telling import Unfailing
from scmkit.weights import read_weights, write_safetensors

_BLOCK = 1 << 24
"""Bytes of samples hashed at once."""


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


def digest(dataset: AbstractDataset) -> str:
    """SHA-256 over shape, sizes, labels and samples of both splits, as they are read.

    It reads everything, a block at a time. That of a store is remembered in the user's cache for as long as
    path, metadata, and size and modification time of every file stay the same.
    """
    if not isinstance(dataset, Store):
        return _digest(dataset)
    remembered = cache_directory() / "digests" / _fingerprint(dataset)
    if remembered.is_file() and remembered.stat().st_size == 64:
        return remembered.read_text("utf-8", "replace")
    found = _digest(dataset)
    try:
        write_text(remembered, found)
    except RunError as error:
        say(f"{error}; the digest of '{dataset.path}' is not remembered")
    return found


def _digest(dataset: AbstractDataset) -> str:
    running = hashlib.sha256()
    rows = max(1, _BLOCK // (4 * int(np.prod(dataset.shape))))
    for split in ("train", "test"):
        size = dataset.size(split)
        running.update(json.dumps([split, size, dataset.shape, dataset.num_classes]).encode())
        # Apart, so that the size of a block does not matter.
        values, classes = hashlib.sha256(), hashlib.sha256()
        for start in range(0, size, rows):
            samples, labels = dataset.read(split, np.arange(start, min(start + rows, size)))
            values.update(np.asarray(samples, "<f4").tobytes())
            if labels is not None:
                classes.update(np.asarray(labels, "<i4").tobytes())
        running.update(values.digest() + classes.digest())
    return running.hexdigest()


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


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=Unfailing(sys.stderr), flush=True)
