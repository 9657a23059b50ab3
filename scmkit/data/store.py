"""Reading a store: a folder of zarr v3 arrays, through TensorStore."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from scmkit.data.layout import (
    FORMAT,
    IMPORT,
    METADATA_FILE,
    SPLITS,
    VERSION,
    StoreMetadata,
    damage,
    excess,
    metadata_parser,
    open_array,
)
from scmkit.errors import DataError
from scmkit.interfaces import AbstractDataset, AbstractDensity, Split, Statistics
from scmkit.storage.containment import exists, inside, parse_json, read_bounded
from scmkit.storage.files import plain_path

RAM_LIMIT = 1 << 30
"""A split of at most this many bytes, as stored, is read once and kept."""

_CACHE_BYTES = 256 << 20


def from_uint8(pixels: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """`x / 127.5 - 1` in float32: pixels 0..255 to [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


class Store(AbstractDataset):
    """A data set on disk, as `StoreWriter` and `scmkit data import` write it.

    A split of at most `ram_limit` bytes is read once into memory; a larger one is read chunk by
    chunk through a cache. Raises `DataError` when `path` is not a store, or a damaged one;
    checksums are verified as data is read.
    """

    def __init__(self, path: str | os.PathLike[str], *, ram_limit: int = RAM_LIMIT) -> None:
        self.path = plain_path(path)
        self.metadata = _read_metadata(self.path)
        self.shape = self.metadata.shape
        self.num_classes = self.metadata.num_classes
        self.class_names = self.metadata.class_names
        self.licences = self.metadata.licences
        self.levels = 256 if self.metadata.dtype == "uint8" else 0
        self.paired = self.metadata.pairs is not None
        self.times = self.metadata.pairs.times if self.metadata.pairs else ()
        self._ram_limit = ram_limit
        self._arrays: dict[tuple[Split, str], Any] = {}
        self._check_files()
        for split in SPLITS:
            self._open(split, "samples", (self.size(split), *self.shape), self.metadata.dtype)
            if self.num_classes:
                self._open(split, "labels", (self.size(split),), "int32")
        if self.paired:
            self._open("train", "noise", (self.size("train"), *self.shape), "float32")
        if self.times:
            shape = (self.size("train"), len(self.times), *self.shape)
            self._open("train", "states", shape, "float32")

    def _check_files(self) -> None:
        for name, expected in self.metadata.files.items():
            try:
                found = inside(self.path, name).stat().st_size
            except ValueError as error:
                raise self._damaged(str(error)) from None
            except OSError:
                raise self._damaged(f"file '{name}' is missing") from None
            if found != expected:
                raise self._damaged(f"file '{name}' has {found} bytes, expected {expected}")

    def _open(self, split: Split, name: str, shape: tuple[int, ...], dtype: str) -> None:
        try:
            folder = inside(self.path, f"{split}/{name}")
            if folder.is_dir():
                inside(folder, "zarr.json")
        except ValueError as error:
            raise self._damaged(str(error)) from None
        if not folder.is_dir():
            raise self._damaged(f"array '{split}/{name}' is missing")
        if problem := excess(folder, shape, dtype):
            raise self._damaged(f"array '{split}/{name}' {problem}")
        try:
            array = open_array(folder, _CACHE_BYTES)
        except (ValueError, OSError) as error:
            raise damage(self.path, error) from error
        if array.shape != shape or array.dtype.name != dtype:
            raise self._damaged(
                f"array '{split}/{name}' is {array.dtype.name} {array.shape}, "
                f"but {METADATA_FILE} says {dtype} {shape}"
            )
        # Nothing is compressed: what is more than its files is not there to be read.
        there = sum(n for f, n in self.metadata.files.items() if f.startswith(f"{split}/{name}/"))
        if array.size * array.dtype.numpy_dtype.itemsize > there:
            raise self._damaged(f"array '{split}/{name}' claims more bytes than its files have")
        self._arrays[split, name] = array

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.path}: damaged store: {what}; import the data again with {IMPORT}")

    def _read(self, split: Split, name: str, indices: Int[np.ndarray, " n"]) -> np.ndarray:
        array = self._arrays[split, name]
        try:
            if isinstance(array, np.ndarray):
                return array[indices]
            if array.size * array.dtype.numpy_dtype.itemsize > self._ram_limit:
                return array[indices].read().result()
            self._arrays[split, name] = array.read().result()
        except (ValueError, OSError) as error:
            raise damage(self.path, error) from error
        return self._arrays[split, name][indices]

    def size(self, split: Split) -> int:
        return self.metadata.sizes[split]

    def read(
        self, split: Split, indices: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n *shape"], Int[np.ndarray, " n"] | None]:
        self._check_range(split, indices)
        samples = self._read(split, "samples", indices)
        labels = self._read(split, "labels", indices) if self.num_classes else None
        return (from_uint8(samples) if samples.dtype == np.uint8 else samples), labels

    def noise(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n *shape"]:
        if not self.paired:
            return super().noise(indices)
        self._check_range("train", indices)
        return self._read("train", "noise", indices)

    def states(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n times *shape"]:
        if not self.times:
            return super().states(indices)
        self._check_range("train", indices)
        return self._read("train", "states", indices)

    def _check_range(self, split: Split, indices: Int[np.ndarray, " n"]) -> None:
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.size(split):
            raise IndexError(f"indices must lie in 0..{self.size(split) - 1}")

    def labels(self, split: Split) -> Int[np.ndarray, " n"] | None:
        return (
            self._read(split, "labels", np.arange(self.size(split))) if self.num_classes else None
        )

    def statistics(self) -> Statistics:
        return self.metadata.statistics

    def density(self) -> AbstractDensity | None:
        return None


def _read_metadata(path: Path) -> StoreMetadata:
    from pydantic import ValidationError

    if not exists(path):
        raise DataError(f"{path}: no such folder; create a store with {IMPORT}")
    if not path.is_dir():
        raise DataError(f"{path}: a file, not a store; turn it into one with {IMPORT}")
    file = path / METADATA_FILE
    if not file.is_file():
        raise DataError(
            f"{path}: not a store (it has no {METADATA_FILE}); create one with {IMPORT}"
        )
    unreadable = f"{path}: {METADATA_FILE} is unreadable"
    again = f"import the data again with {IMPORT}"
    try:
        content = parse_json(read_bounded(file))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{unreadable} ({error}); {again}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f'{unreadable} (it does not say "format": "{FORMAT}"); {again}')
    if content.get("version") != VERSION:
        raise DataError(
            f"{path}: store format version {content.get('version')!r}, but this scmkit reads "
            f"version {VERSION}; update scmkit or {again}"
        )
    try:
        metadata = metadata_parser()(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{unreadable} ('{field}': {first['msg']}); {again}") from error
    if problem := metadata.inconsistency():
        raise DataError(f"{unreadable} ({problem}); {again}")
    return metadata
