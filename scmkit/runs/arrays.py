"""The arrays of a pytree as zarr3 arrays on disk, each named after its place in the tree."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import tensorstore as ts
from jaxtyping import PyTree

from scmkit.errors import CheckpointError
from scmkit.runs.manifest import Damage
from scmkit.storage.containment import parse_json, read_bounded

FOLDER = "arrays"
"""Where in a checkpoint the arrays are, so that no leaf's name can meet another file's."""


def is_saved(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for one."""
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(leaf: Any) -> dict[str, Any]:
    """The manifest's record of a leaf: `dtype` and `shape`."""
    dtype = str(leaf.dtype) if is_key(leaf) else np.dtype(leaf.dtype).name
    return {"dtype": dtype, "shape": list(leaf.shape)}


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """The leaves of a tree, in its order, each with the name `a/b/0` of its array.

    Names are unique also where upper and lower case are one; those of a subtree do not depend on
    the rest of the tree.
    """
    leaves, _ = jtu.tree_flatten_with_path(tree)
    names: dict[tuple[Any, ...], str] = {(): ""}
    taken: set[str] = set()
    named = []
    for path, leaf in leaves:
        for depth in range(1, len(path) + 1):
            node = path[:depth]
            if node in names and depth < len(path):
                continue
            base = name = f"{names[node[:-1]]}/{_escape(node[-1])}".removeprefix("/")
            repeat = 0
            while name.casefold() in taken:
                repeat += 1
                name = f"{base}~{repeat}"
            taken.add(name.casefold())
            names[node] = name
        named.append((names[path] or "value", leaf))
    return named


def write_arrays(root: Path, tree: PyTree) -> dict[str, dict[str, Any]]:
    """Write the arrays of `tree`, all at once, and return their records by name.

    Raises `OSError`, `ValueError` or `TypeError`. The files are not yet durable.
    """
    leaves = {name: leaf for name, leaf in named_leaves(tree) if is_saved(leaf)}
    records: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            raise ValueError(f"leaf '{name}' is spread over several processes: gather it first")
        records[name] = describe(leaf)
        if is_key(leaf):
            leaves[name] = jr.key_data(leaf)
            records[name]["key"] = str(jr.key_impl(leaf))
    arrays = {name: _as_stored(name, array) for name, array in jax.device_get(leaves).items()}
    context = ts.Context({"file_io_sync": False})  # The manifest makes every file durable, once.
    opened = {
        name: ts.open(_spec(root, name, array), create=True, context=context)
        for name, array in arrays.items()
    }
    written = [
        opened[name].result().write(array, can_reference_source_data_indefinitely=True)
        for name, array in arrays.items()
    ]
    for future in written:
        future.result()
    return records


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
    opened = {name: ts.open(_spec(root, name), open=True, context=context) for name in expected}
    try:
        stores = {name: store.result() for name, store in opened.items()}
        for name, store in stores.items():
            _check_claim(root, name, store, records[name])
        pending = {name: store.read() for name, store in stores.items()}
        stored = {name: np.asarray(read.result()) for name, read in pending.items()}
    except (OSError, ValueError) as error:
        raise Damage(f"cannot be read ({short(error)})") from error
    return {name: _placed(name, stored[name], expected[name], records[name]) for name in expected}


def _check_metadata(root: Path, name: str) -> None:
    """Raises `Damage` for metadata nested so deeply that TensorStore would run out of stack."""
    try:
        parse_json(read_bounded(root / FOLDER / name / "zarr.json"))
    except (OSError, ValueError) as error:
        raise Damage(f"has an array '{name}' with a damaged 'zarr.json' ({error})") from None


def _check_claim(root: Path, name: str, store: Any, record: Mapping[str, Any]) -> None:
    """Raises `Damage` where an array claims more than its file holds, before memory is taken for it."""
    size = store.size * store.dtype.numpy_dtype.itemsize
    folder = root / FOLDER / name
    there = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    # Those of a key are its bits, with sides of their own.
    fits = "key" in record or list(store.shape) == record["shape"]
    chunk = store.chunk_layout.read_chunk.shape or ()
    whole = all(c <= max(1, n) for c, n in zip(chunk, store.shape, strict=True))
    codecs = {codec["name"] for codec in store.spec().to_json()["metadata"]["codecs"]}
    if not (fits and whole and size <= there and codecs <= {"bytes", "crc32c"}):
        raise Damage(f"has an array '{name}' of another size than its file or its record says")


def short(error: Exception) -> str:
    """The first line of an error, without the source locations that TensorStore appends."""
    return str(error).split(" [source locations")[0].partition("\n")[0]


def _escape(entry: Any) -> str:
    """One path element as a file name: readable, injective up to case, and never `.` or `..`."""
    fields = ("name", "key", "idx")
    text = str(next((getattr(entry, field) for field in fields if hasattr(entry, field)), entry))
    name = quote(text, safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")
    if len(name) > 200:  # File systems allow 255 bytes.
        name = f"{name[:150]}~{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return name or "%"


def _spec(root: Path, name: str, array: np.ndarray | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{root.absolute() / FOLDER / name}/"},
        # Otherwise an array of zeros has no file, and a lost file would read as zeros.
        "store_data_equal_to_fill_value": True,
    }
    if array is not None:
        spec["metadata"] = {
            "shape": array.shape,
            "data_type": array.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [max(1, size) for size in array.shape]},
            },
            # Keys "0.0" in place of "c/0/0": one directory per array to make durable, not three.
            "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
        }
    return spec


def _as_stored(name: str, array: Any) -> np.ndarray:
    """What zarr holds for an array: itself, or its bits where zarr has no such number (float8)."""
    array = np.asarray(array)
    if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise TypeError(f"leaf '{name}' has dtype {array.dtype}, which is no number")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.isbuiltin == 1 or array.dtype == jnp.bfloat16:
        return array
    return array.view(f"uint{8 * array.dtype.itemsize}")


def _placed(name: str, stored: np.ndarray, like: Any, record: Mapping[str, Any]) -> Any:
    if "key" in record:
        value = jr.wrap_key_data(jnp.asarray(stored), impl=record["key"])
    else:
        host = stored.view(jnp.dtype(record["dtype"]))
        if isinstance(like, np.ndarray):
            return host
        if isinstance(like, np.generic):
            return host[()]
        value = jnp.asarray(host)
        if value.dtype != host.dtype:
            raise CheckpointError(f"leaf '{name}' is {host.dtype}; set JAX_ENABLE_X64=1 to hold it")
    sharding = getattr(like, "sharding", None)
    # `jax.eval_shape` leaves shardings that name no devices, and an array that was never placed
    # stays free to follow the others in a computation.
    abstract = isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh)
    if sharding is None or abstract or not getattr(like, "committed", True):
        return value
    return jax.device_put(value, sharding)
