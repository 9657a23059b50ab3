"""Pickles as inert data: what they would call and build is noted down, and never done."""

import io
import pickle
import pickletools
from typing import Any

from scmkit.weights.damage import Unreadable, require

STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
"""PyTorch's storages, and the dtypes of their elements."""

ADMITTED = {
    *("collections OrderedDict", "builtins set", "builtins object", "copyreg _reconstructor"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"),
    *("torch._utils _rebuild_parameter", "torch.storage _load_from_bytes"),
    *("torch Size", "torch device", "torch float32", "torch float16", "torch bfloat16"),
    *("torch.nn.modules.container ModuleDict", "torch.nn.modules.container ModuleList"),
    "torch_utils.persistence _reconstruct_persistent_obj",
    *("dnnlib.util EasyDict", "dnnlib EasyDict"),
    *("numpy dtype", "numpy ndarray"),
    *(
        f"numpy.{core}.multiarray {f}"
        for core in ("core", "_core")
        for f in ("scalar", "_reconstruct")
    ),
    *(f"torch {storage}" for storage in STORAGES),
    "_codecs encode",
}
"""Everything a weight file has reason to name. For each, an inert class of ours stands in."""


class Node:
    """Something a pickle would have called or built: its name, and what it was given."""

    name = ""

    args: tuple[Any, ...]
    state: Any
    items: list[tuple[Any, Any]]
    elements: list[Any]

    def __new__(cls, *args: Any) -> "Node":
        # Here, since pickles make objects with and without `__init__`.
        node = super().__new__(cls)
        node.args, node.state, node.items, node.elements = args, None, [], []
        return node

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, element: Any) -> None:
        """What APPENDS calls on a list's stand-in."""
        self.elements.append(element)

    add = append


class Storage:
    """A persistent id of PyTorch: the data is elsewhere in the file."""

    def __init__(self, pid: Any) -> None:
        parts = list(pid) if isinstance(pid, tuple) else []
        good = len(parts) >= 5 and parts[0] == "storage"
        require(good, "it refers to something that is no tensor's storage")
        kind, self.key, self.numel = parts[1], parts[2], parts[4]
        found = isinstance(kind, type) and issubclass(kind, Node) and kind.name.startswith("torch ")
        self.dtype = STORAGES.get(kind.name.removeprefix("torch "), "") if found else ""
        good = self.dtype and isinstance(self.key, str) and isinstance(self.numel, int)
        require(bool(good) and self.numel >= 0, "it has a storage of unknown kind")


class _Unpickler(pickle.Unpickler):
    """Builds `Node`s. Its classes are made anew for each file, so that no file can change them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self._kinds: dict[str, type[Node]] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name} {global_name}"
        if name not in ADMITTED:
            raise Unreadable(
                f"it asks for '{module_name}.{global_name}', which no weights of a known network need; "
                "it may be malicious, do not load it elsewhere"
            )
        if name not in self._kinds:
            self._kinds[name] = type("Node", (Node,), {"name": name})
        return self._kinds[name]

    def persistent_load(self, pid: Any) -> Storage:
        return Storage(pid)


def load_inert(data: bytes, start: int = 0) -> tuple[Any, int]:
    """The first pickle in `data` from `start` as plain values and `Node`s, and where it ends.

    Raises `Unreadable` for what no weight file needs.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    end = _scanned(stream, len(data))
    whole = start == 0 and end == len(data)
    return _Unpickler(io.BytesIO(data if whole else data[start:end])).load(), end


def _scanned(stream: io.BytesIO, size: int) -> int:
    """Where a pickle ends, after a look at every opcode.

    Two of them make the unpickler take memory before it looks at the data: a string that claims a
    length, which `genops` compares with what is there, and a place in its table of objects.
    """
    operations = 0
    try:
        for operation, argument, _ in pickletools.genops(stream):
            operations += 1
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                require(
                    argument is not None and argument <= operations,
                    "its table of objects is absurd",
                )
            require(
                operation.name not in ("EXT1", "EXT2", "EXT4", "BYTEARRAY8", "NEXT_BUFFER"),
                f"it has the opcode {operation.name}, which no weight file needs",
            )
    except (ValueError, IndexError) as error:
        raise Unreadable(f"its pickle is damaged ({error}); fetch it again") from None
    require(stream.tell() <= size, "it is truncated; fetch it again")
    return stream.tell()
