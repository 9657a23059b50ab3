"""PyTorch's checkpoints and pickled modules as arrays, without PyTorch."""

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from scmkit.weights.damage import Unreadable, require
from scmkit.weights.inert import Node, Storage, load_inert

MAGIC = 0x1950A86A20F9469CFC6C
"""What `torch.save`'s old format begins with."""

CLASSES = {
    *("Precond", "UNet", "Block", "MPConv", "MPFourier"),
    *("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond", "SongUNet", "DhariwalUNet"),
    *("UNetBlock", "Conv2d", "Linear", "GroupNorm", "PositionalEmbedding", "FourierEmbedding"),
}
"""The modules of EDM and EDM2 that hold parameters."""

NESTED = ("ema", "state_dict", "model", "net")
"""Where checkpoints keep a network's weights, in the order in which they are wanted."""

Elements = Callable[[Storage], np.ndarray]
Content = tuple[dict[str, np.ndarray], dict[str, Any]]
DEPTH, NODES = 64, 1_000_000
"""Bounds on nesting and on the number of modules and parameters."""


def read_torch_zip(path: Path) -> Content:
    """A checkpoint of `torch.save`: a zip archive of one pickle and a file for each storage."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        root = next(n for n in names if n.endswith("/data.pkl")).removesuffix("data.pkl")
        for entry in archive.infolist():
            require(
                entry.compress_type == zipfile.ZIP_STORED,
                "it is compressed; save it as PyTorch does",
            )
        if f"{root}byteorder" in names:
            require(archive.read(f"{root}byteorder") == b"little", "it is of a big-endian machine")
        content, _ = load_inert(archive.read(f"{root}data.pkl"))
        read: dict[str, np.ndarray] = {}

        def elements(storage: Storage) -> np.ndarray:
            if storage.key not in read:
                name = f"{root}data/{storage.key}"
                require(name in names, f"it has no data for its storage '{storage.key}'")
                read[storage.key] = _typed(archive.read(name), storage)
            return read[storage.key]

        return _network(content, elements)


def read_pickle(path: Path) -> Content:
    """A pickled dict of modules, as NVIDIA publishes them, or a checkpoint in `torch.save`'s old format."""
    data = path.read_bytes()
    content, _ = load_inert(data)
    if content == MAGIC:
        content, elements = _legacy(data)
        return _network(content, elements)
    return _network(content, _refuse)


def _refuse(storage: Storage) -> np.ndarray:
    raise Unreadable("it refers to a storage that it does not hold")


def _typed(data: bytes, storage: Storage) -> np.ndarray:
    dtype = np.dtype(ml_dtypes.bfloat16 if storage.dtype == "bfloat16" else storage.dtype)
    require(
        len(data) == storage.numel * dtype.itemsize, f"its storage '{storage.key}' is truncated"
    )
    return np.frombuffer(data, dtype)


def _legacy(data: bytes) -> tuple[Any, Elements]:
    """The object and the storages of `torch.save`'s old format: five pickles, then the data in turn."""
    parts, end = [], 0
    for _ in range(5):
        part, end = load_inert(data, end)
        parts.append(part)
    magic, _, system, content, keys = parts
    require(magic == MAGIC and isinstance(system, dict) and isinstance(keys, list), "it is damaged")
    require(system.get("little_endian") is True, "it is of a big-endian machine")
    where: dict[str, tuple[int, int]] = {}
    found = {s.key: s for s in _storages(content)}
    for key in keys:
        require(key in found, "it has data that nothing refers to")
        numel = int.from_bytes(data[end : end + 8], "little")
        require(numel == found[key].numel, f"its storage '{key}' has another size than it says")
        size = numel * (
            2 if found[key].dtype == "bfloat16" else np.dtype(found[key].dtype).itemsize
        )
        where[key] = (end + 8, end + 8 + size)
        end += 8 + size

    def elements(storage: Storage) -> np.ndarray:
        require(storage.key in where, f"it has no data for its storage '{storage.key}'")
        start, stop = where[storage.key]
        return _typed(data[start:stop], storage)

    return content, elements


def _storages(content: Any) -> list[Storage]:
    """Every storage in a tree of plain values and nodes, each value looked at once."""
    found, todo, seen = [], [content], set()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Storage):
            found.append(value)
        elif isinstance(value, Node):
            todo += [value.args, value.state, value.items, value.elements]
        elif isinstance(value, dict):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            todo += value
    return found


def _network(content: Any, elements: Elements) -> Content:
    """The weights in a checkpoint: a state dict, a module, or a dict that has either."""
    reader = _Reader(elements)
    module = reader.module(content)
    if module is not None:
        return reader.state_dict(module), _described(module)
    whole = _mapping(content)
    require(whole is not None, "it holds neither a state dict nor a module")
    assert whole is not None
    if any(_is_tensor(v) for v in whole.values()):
        return reader.tensors(whole), {}
    for key in NESTED:
        if key in whole:
            return _network(whole[key], elements)
    keys = ", ".join(str(k) for k in list(whole)[:8]) or "none"
    raise Unreadable(f"it holds no network under {', '.join(NESTED)} (its keys: {keys})")


def _described(module: Mapping[str, Any]) -> dict[str, Any]:
    """The class of a module, and the arguments it was made with as far as they are plain."""
    state = module["state"]
    kwargs = _mapping(state.get("_init_kwargs")) or {}
    plain = {k: v for k, v in kwargs.items() if isinstance(v, int | float | str | bool | list)}
    return {"class": module["class_name"], "kwargs": plain}


class _Reader:
    """Turns nodes into arrays and state dicts, within bounds."""

    def __init__(self, elements: Elements) -> None:
        self._elements = elements
        self._left = NODES

    def module(self, value: Any) -> dict[str, Any] | None:
        """The class name and state of a module; None for anything else."""
        if not isinstance(value, Node):
            return None
        if value.name == "torch_utils.persistence _reconstruct_persistent_obj":
            meta = _mapping(value.args[0]) if value.args else None
            require(meta is not None and "class_name" in meta, "it has a module without a class")
            assert meta is not None
            # The module's source is in `meta`, too, to be executed by those who trust it.
            kind, state = meta["class_name"], _mapping(meta.get("state"))
            if kind not in CLASSES:
                raise Unreadable(f"it holds a '{kind}', which is no module of EDM or EDM2")
            require(state is not None, f"its module '{kind}' has no state")
            return {"class_name": kind, "state": state}
        state = _mapping(value.state)
        if state is not None and "_modules" in state:
            return {"class_name": value.name, "state": state}
        return None

    def state_dict(
        self, module: Mapping[str, Any], prefix: str = "", depth: int = 0
    ) -> dict[str, np.ndarray]:
        """Parameters and buffers by name, those of submodules behind a dot."""
        require(depth < DEPTH, "its modules are nested too deep")
        found: dict[str, np.ndarray] = {}
        for kind in ("_parameters", "_buffers"):
            tensors = _mapping(module["state"].get(kind)) or {}
            present = {f"{prefix}{name}": t for name, t in tensors.items() if t is not None}
            found |= self.tensors(present)
        for name, value in (_mapping(module["state"].get("_modules")) or {}).items():
            self._count()
            inner = self.module(value)
            require(inner is not None or value is None, f"its part '{prefix}{name}' is no module")
            if inner is not None:
                found |= self.state_dict(inner, f"{prefix}{name}.", depth + 1)
        return found

    def tensors(self, values: Mapping[Any, Any]) -> dict[str, np.ndarray]:
        """Arrays of a mapping's tensors; plain numbers beside them are passed over."""
        found = {}
        for name, value in values.items():
            require(isinstance(name, str), "it has a parameter whose name is no text")
            if _is_tensor(value):
                self._count()
                found[name] = self._tensor(name, value)
        return found

    def _count(self) -> None:
        self._left -= 1
        require(self._left > 0, "it has more parameters than a network can have")

    def _tensor(self, name: str, node: Node) -> np.ndarray:
        for _ in range(4):  # A parameter is a tensor in a wrapper.
            if node.name == "torch._utils _rebuild_parameter":
                require(bool(node.args) and isinstance(node.args[0], Node), f"'{name}' is damaged")
                node = node.args[0]
        require(node.name.startswith("torch._utils _rebuild_tensor"), f"'{name}' is no tensor")
        require(len(node.args) >= 4, f"'{name}' is damaged")
        storage, offset, size, stride = node.args[:4]
        flat = self._flat(name, storage)
        size, stride = (_numbers(name, v) for v in (size, stride))
        sound = isinstance(offset, int) and offset >= 0 and len(size) == len(stride) <= 16
        require(sound and math.prod(size) <= flat.size, f"'{name}' is larger than its data")
        if math.prod(size) == 0:
            return np.zeros(size, flat.dtype)
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        require(last < flat.size, f"'{name}' reaches beyond its data")
        steps = [s * flat.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False).copy()

    def _flat(self, name: str, storage: Any) -> np.ndarray:
        if isinstance(storage, Storage):
            return self._elements(storage)
        bytes_ = isinstance(storage, Node) and storage.name == "torch.storage _load_from_bytes"
        good = bytes_ and len(storage.args) == 1 and isinstance(storage.args[0], bytes)
        require(good, f"'{name}' has no storage")
        content, elements = _legacy(storage.args[0])
        require(isinstance(content, Storage), f"'{name}' has no storage")
        return elements(content)


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, Node) and value.name == "torch Size" and value.args:
        value = value.args[0]
    good = isinstance(value, tuple | list) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 48 for n in value
    )
    require(good, f"'{name}' has an impossible shape")
    return tuple(value)  # pyright: ignore[reportArgumentType]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Node) and value.name.startswith("torch._utils ")


def _mapping(value: Any) -> dict[Any, Any] | None:
    """A dict, or what a stand-in of one was filled with."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Node) and value.name in DICTS:
        found = dict(value.items)
        if value.args and isinstance(value.args[0], list):  # How protocols 0 and 1 write it.
            found |= {pair[0]: pair[1] for pair in value.args[0] if len(pair) == 2}
        return found
    return None


DICTS = ("collections OrderedDict", "dnnlib.util EasyDict", "dnnlib EasyDict")
