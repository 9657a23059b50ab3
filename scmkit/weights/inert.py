"""The objects of a pickle beside plain values: names, calls that are never made, places of data."""

from typing import Any

from scmkit.weights.admitted import (
    CLASSES,
    DICTS,
    PERSISTENT,
    RECONSTRUCTOR,
    SETS,
    STORAGES,
)
from scmkit.weights.damage import Unreadable, require, shown


class Name:
    """An admitted function or class, of which there is only the name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Call:
    """A call that the pickle asks for, or an object to build: its name, its arguments and its state."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        self.name, self.args, self.state = name, args, None


class Storage:
    """A persistent id of PyTorch: `numel` elements that lie elsewhere in the file."""

    __slots__ = ("dtype", "key", "numel")

    def __init__(self, pid: Any) -> None:
        known = isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"
        require(known and pid[5:] in ((), (None,)), "it refers to what is no storage")
        kind, key, numel = pid[1], pid[2], pid[4]
        name = kind.name.removeprefix("torch.") if isinstance(kind, Name) else ""
        require(name in STORAGES and isinstance(key, str), "a storage is of unknown kind")
        require(type(numel) is int and 0 <= numel < 1 << 48, "a storage has an impossible size")
        self.dtype, self.key, self.numel = STORAGES[name], key, numel


def filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """`target` with keys and values that alternate in `items`.

    Keys are of the few types that hash in no time, to different values: a tuple of a million levels would
    end the process, and integers that are equal modulo 2^61 - 1 would take it hours.
    """
    require(len(items) % 2 == 0, "a dict has a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        small = isinstance(key, int) and -(1 << 60) < key < 1 << 60
        require(small or key is None or isinstance(key, str), "a dict has a key of unknown kind")
        target[key] = value
    return target


def called(function: Any, args: Any) -> Any:
    """The stand-in for the result of a call, or for the object to build."""
    require(isinstance(function, Name) and isinstance(args, tuple), "it calls what is no function")
    name, first = function.name, args[0] if args else None
    if name == RECONSTRUCTOR:
        require(isinstance(first, Name) and first.name != name, "it builds what is no class")
        return called(first, ())
    # Without copies, which a short pickle could ask for without end.
    if name in DICTS:
        pairs = first if isinstance(first, list) else []
        known = not args or (len(args) == 1 and pairs is first)
        known = known and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
        require(known, "it fills a dict in an unknown way")
        found = filled({}, [part for pair in pairs for part in pair])
        pairs.clear()  # Python 2 gives each dict a list of its own.
        return found
    if name in SETS:
        return first if isinstance(first, list) else []
    if name == PERSISTENT:
        kind = first.get("class_name") if isinstance(first, dict) else None
        if not (isinstance(kind, str) and kind in CLASSES):
            raise Unreadable(
                f"it holds an object of class {shown(kind)}, which is none of EDM's or EDM2's; "
                "save its state dict as .safetensors"
            )
    return Call(name, args)
