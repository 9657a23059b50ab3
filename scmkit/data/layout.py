"""What a store looks like on disk: its metadata file and its zarr v3 arrays."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from scmkit.errors import DataError
from scmkit.interfaces import Split, SplitDigest, Statistics
from scmkit.storage.containment import parse_json, read_bounded

FORMAT = "scmkit-store"
VERSION = 1
METADATA_FILE = "scmkit.json"
SPLITS: tuple[Split, ...] = ("train", "test")
IMPORT = "'scmkit data import SOURCE DEST'"

# Inner chunks are the unit of a random read, shards the number of files.
_CHUNK_BYTES = 32 << 10
_SHARD_BYTES = 32 << 20
_LABELS_PER_CHUNK = 1 << 16

StoredDtype = Literal["uint8", "float32"]


@dataclass(frozen=True)
class PairsRecord:
    """How the pairs of noise and sample in a store were drawn.

    **Attributes:**

    - `run`, `step`, `digest`: the run whose model drew them, its step, and the digest of that checkpoint.
    - `process`, `process_options`: the plugin of its noise process, and that plugin's options.
    - `noise_std`: the standard deviation of the noise that the sampler began with; the noise in the store is
        that divided by it, N(0, I).
    - `sampler`, `sampler_options`, `steps`, `seed`: what took the noise to the sample.
    - `guidance`, `guide`, `guidance_interval`: the guidance of the model, as it was asked for.
    - `times`: noise-to-signal ratios, descending, of the states that are stored between noise and sample.
    """

    run: str
    step: int
    digest: str
    process: str
    process_options: dict[str, Any]
    noise_std: float
    sampler: str
    sampler_options: dict[str, Any]
    steps: int
    seed: int
    guidance: float | None = None
    guide: str | None = None
    guidance_interval: str | None = None
    times: tuple[Annotated[float, Gt(0)], ...] = ()


@dataclass(frozen=True)
class StoreMetadata:
    """The contents of `scmkit.json`.

    `dtype` uint8 stands for images of 0..255, read as `x / 127.5 - 1`; `statistics` are those of
    the train split as it is read. `files` has the size in bytes of every array file, since zarr
    reads a missing chunk as zeros.
    """

    format: Literal["scmkit-store"]
    version: Literal[1]
    dtype: StoredDtype
    shape: tuple[Annotated[int, Gt(0)], ...]
    num_classes: Annotated[int, Ge(0)]
    class_names: tuple[str, ...]
    sizes: dict[Split, Annotated[int, Ge(0)]]
    statistics: Statistics
    files: dict[str, int]
    digests: dict[Split, SplitDigest] | None = None
    """Of what is read from each split; stores of before have none."""
    pairs: PairsRecord | None = None
    """How the training samples were drawn, each from the noise that is stored with it; else None."""
    licences: tuple[str, ...] = ()
    """Whose the samples are and under which licence, a line for each origin."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, without pairs and licences where there are none."""
        return {k: v for k, v in asdict(self).items() if v or k not in ("pairs", "licences")}

    def inconsistency(self) -> str | None:
        """What contradicts itself in otherwise well-formed metadata, or None."""
        if not self.shape:
            return "'shape' is empty"
        if set(self.sizes) != set(SPLITS):
            return "'sizes' must have 'train' and 'test'"
        if {len(self.statistics.mean), len(self.statistics.std)} != {self.shape[0]}:
            return f"'statistics' must have {self.shape[0]} values, one per channel"
        if self.class_names and len(self.class_names) != self.num_classes:
            return f"{len(self.class_names)} class names for {self.num_classes} classes"
        return None


def as_read(dtype: StoredDtype) -> tuple[float, float]:
    """Scale and shift from values as they are stored to values as they are read."""
    return (1 / 127.5, -1.0) if dtype == "uint8" else (1.0, 0.0)


def samples_per_shard(shape: tuple[int, ...], itemsize: int) -> tuple[int, int]:
    """How many samples of `shape` make up an inner chunk and a shard (a multiple of the chunk)."""
    sample = math.prod(shape) * itemsize
    chunk = max(1, _CHUNK_BYTES // sample)
    return chunk, chunk * max(1, _SHARD_BYTES // (chunk * sample))


def _bytes_codec(dtype: str) -> dict[str, Any]:
    # zarr v3 allows no byte order on one-byte types.
    if dtype == "uint8":
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _array_spec(folder: Path) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": os.path.abspath(folder) + "/"}}


def _create(folder: Path, metadata: dict[str, Any]) -> Any:
    import tensorstore as ts

    spec = _array_spec(folder) | {
        "metadata": metadata,
        # Otherwise an all-black chunk writes no file and looks like a missing one.
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, create=True).result()


def create_samples(folder: Path, shape: tuple[int, ...], dtype: StoredDtype) -> Any:
    """Creates the empty array of samples, `0 *shape`, sharded and with checksums."""
    chunk, shard = samples_per_shard(shape, 1 if dtype == "uint8" else 4)
    index_codecs = [_bytes_codec("uint64"), {"name": "crc32c"}]
    codec = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [chunk, *shape],
            "codecs": [_bytes_codec(dtype), {"name": "crc32c"}],
            "index_codecs": index_codecs,
        },
    }
    grid = {"name": "regular", "configuration": {"chunk_shape": [shard, *shape]}}
    return _create(
        folder,
        {"shape": [0, *shape], "data_type": dtype, "chunk_grid": grid, "codecs": [codec]},
    )


def create_labels(folder: Path) -> Any:
    """Creates the empty array of int32 labels, with checksums."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [_LABELS_PER_CHUNK]}}
    codecs = [_bytes_codec("int32"), {"name": "crc32c"}]
    return _create(
        folder, {"shape": [0], "data_type": "int32", "chunk_grid": grid, "codecs": codecs}
    )


def open_array(folder: Path, cache_bytes: int) -> Any:
    """Opens an existing array for reading, with a cache of decoded chunks."""
    import tensorstore as ts

    context = {"cache_pool": {"total_bytes_limit": cache_bytes}}
    return ts.open(_array_spec(folder) | {"context": context}, read=True).result()


def excess(folder: Path, shape: tuple[int, ...], dtype: str) -> str | None:
    """What in an array's `zarr.json` would make reading it unpack, or take memory for, more than is there."""
    try:
        found = parse_json(read_bounded(folder / "zarr.json"))
        sides = found["chunk_grid"]["configuration"]["chunk_shape"]
        codecs = [codec["name"] for codec in _all_codecs(found["codecs"])]
        whole = all(type(n) is int and n > 0 for n in sides) and len(sides) == len(shape)
    except FileNotFoundError:
        return "has no zarr.json"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has a damaged file 'zarr.json' ({type(error).__name__}: {error})"
    if foreign := set(map(str, codecs)) - _CODECS:
        return f"is encoded by {ascii(min(foreign))[:80]}, which no store is"
    # One sample to a chunk at the least, however large.
    limit = max(_CHUNK_LIMIT, math.prod(shape[1:]) * (1 if dtype == "uint8" else 4))
    if not whole or math.prod(sides) > limit:
        return "has chunks of an impossible size"
    return None


_CODECS = {"bytes", "crc32c", "sharding_indexed"}
_CHUNK_LIMIT = 256 << 20


def _all_codecs(codecs: Any) -> list[dict[str, Any]]:
    """The codecs of an array and those within its shards."""
    found = []
    for codec in codecs:
        inner = codec.get("configuration") or {}
        parts = (inner.get("codecs") or [], inner.get("index_codecs") or [])
        found += [codec, *(c for part in parts for c in _all_codecs(part))]
    return found


@cache
def metadata_parser() -> Callable[[Any], StoreMetadata]:
    """The function that checks a parsed `scmkit.json`; it raises pydantic's `ValidationError`."""
    from pydantic import TypeAdapter

    return TypeAdapter(StoreMetadata).validate_python


def damage(store: Path, error: Exception) -> DataError:
    """The `DataError` for a failed read, naming the file where TensorStore names one."""
    text = str(error).split(" [tensorstore_spec", 1)[0]
    files = re.findall(r'local file "([^"]*)"', text)
    where = os.path.relpath(files[-1], os.path.abspath(store)) if files else "an array"
    reason = text.rsplit('": ', 1)[-1]
    return DataError(
        f"{store}: damaged file '{where}' ({reason}); import the data again with {IMPORT}"
    )
