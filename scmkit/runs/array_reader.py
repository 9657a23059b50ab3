"""Arrays of a checkpoint to where they shall lie, on any mesh; each process reads what its devices hold."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tensorstore as ts
from jax.sharding import Sharding

from scmkit.errors import CheckpointError
from scmkit.runs.arrays import (
    FOLDER,
    Region,
    batches,
    devices_of_regions,
    region,
    short,
    slices,
    spec,
)
from scmkit.runs.manifest import Damage
from scmkit.storage.containment import parse_json, read_bounded


def read_arrays(
    root: Path, expected: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Read the arrays named in `expected` to where its leaves say.

    Raises `Damage`, or `CheckpointError` for 64 bits that jax is not set up to hold. Shapes and
    dtypes are taken to agree.
    """
    for name in expected:
        _check_metadata(root, name)
    context = ts.Context()
    opened = {name: ts.open(spec(root, name), open=True, context=context) for name in expected}
    with _reading():
        stores = {name: store.result() for name, store in opened.items()}
        for name, store in stores.items():
            _check_claim(root, name, store, records[name])
    values = {}
    for names in batches((name, _size(store)) for name, store in stores.items()):
        asked = {name: _asked_for(expected[name], stores[name].shape) for name in names}
        with _reading():
            parts = _read({name: stores[name] for name in names}, asked)
        for name in names:
            shape = stores[name].shape
            values[name] = _placed(name, shape, parts[name], expected[name], records[name])
    return values


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Raises `Damage` for errors of reading."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Damage(f"cannot be read ({short(error)})") from error


def _size(store: Any) -> int:
    return store.size * store.dtype.numpy_dtype.itemsize


def _read(
    stores: Mapping[str, Any], asked: Mapping[str, list[Region]]
) -> dict[str, dict[Region, np.ndarray]]:
    # Within a batch a file is read once, however many parts of it are asked for.
    with ts.Batch() as batch:
        pending = {
            name: {part: stores[name][slices(part)].read(batch=batch) for part in parts}
            for name, parts in asked.items()
        }
    return {
        name: {part: np.asarray(read.result()) for part, read in reads.items()}
        for name, reads in pending.items()
    }


def _check_metadata(root: Path, name: str) -> None:
    """Raises `Damage` for metadata nested so deeply that TensorStore would run out of stack."""
    try:
        parse_json(read_bounded(root / FOLDER / name / "zarr.json"))
    except (OSError, ValueError) as error:
        raise Damage(f"has an array '{name}' with a damaged 'zarr.json' ({error})") from None


def _check_claim(root: Path, name: str, store: Any, record: Mapping[str, Any]) -> None:
    """Raises `Damage` where an array claims more than its files hold, before memory is taken for it."""
    folder = root / FOLDER / name
    there = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    # Those of a key are its bits, with sides of their own.
    fits = "key" in record or list(store.shape) == record["shape"]
    chunk = store.chunk_layout.read_chunk.shape or ()
    whole = all(max(1, n) % c == 0 for c, n in zip(chunk, store.shape, strict=True))
    codecs = {codec["name"] for codec in store.spec().to_json()["metadata"]["codecs"]}
    if not (fits and whole and _size(store) <= there and codecs <= {"bytes", "crc32c"}):
        raise Damage(f"has an array '{name}' of another size than its files or its record say")


def is_shared(like: Any) -> bool:
    """Whether a leaf is to be spread over several processes."""
    sharding = _sharding(like)
    return sharding is not None and not sharding.is_fully_addressable


def _sharding(like: Any) -> Sharding | None:
    """The devices that a leaf names.

    `jax.eval_shape` leaves shardings that name none, and an array that was never placed stays free to follow
    the others in a computation.
    """
    sharding = getattr(like, "sharding", None)
    abstract = isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh)
    return None if abstract or not getattr(like, "committed", True) else sharding


def _asked_for(like: Any, shape: tuple[int, ...]) -> list[Region]:
    """The parts of an array that this process is to have."""
    sharding = _sharding(like)
    if sharding is None:
        return [tuple((0, n) for n in shape)]
    here = sharding.addressable_devices
    return [part for part, at in devices_of_regions(sharding, shape).items() if here & set(at)]


def _placed(
    name: str,
    shape: tuple[int, ...],
    parts: Mapping[Region, np.ndarray],
    like: Any,
    record: Mapping[str, Any],
) -> Any:
    is_key = "key" in record
    if not is_key:
        dtype = jnp.dtype(record["dtype"])
        parts = {part: stored.view(dtype) for part, stored in parts.items()}
        if isinstance(like, np.ndarray | np.generic):
            (host,) = parts.values()
            return host if isinstance(like, np.ndarray) else host[()]
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise CheckpointError(f"leaf '{name}' is {dtype}; set JAX_ENABLE_X64=1 to hold it")
    if (sharding := _sharding(like)) is None:
        (stored,) = parts.values()
        value = jnp.asarray(stored)
    else:
        value = jax.make_array_from_callback(
            shape, sharding, lambda index: parts[region(index or (), shape)]
        )
    return jr.wrap_key_data(value, impl=record["key"]) if is_key else value
