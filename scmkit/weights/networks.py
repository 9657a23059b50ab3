"""The network in what a pickle holds: a state dict, a module, or a checkpoint that has either."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scmkit.weights.admitted import CONTAINERS, PERSISTENT
from scmkit.weights.damage import Unreadable, listed, require, shown
from scmkit.weights.inert import Call
from scmkit.weights.tensors import Tensors, is_array, scalar

NESTED = ("state_dict", "ema", "model", "net")
"""Keys under which checkpoints keep weights, tried after the one that was asked for."""

ENCODER = "encoder"
"""The key under which EDM2's snapshots keep the encoder of images."""

OBJECT = "<object>"

LEVELS, PARTS, VALUES, SHORT = 64, 20_000, 50_000, 64
"""The most levels of modules within modules, modules and parameters, values of all arguments and attributes,
and numbers in one attribute."""

Parts = tuple[str, Mapping[Any, Any]]


def network(
    content: Any, key: str, tensors: Tensors
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by their names in PyTorch's state dict, and of a module its class and arguments."""
    keys = tuple(dict.fromkeys((key, *NESTED)))
    found = _find(content, keys)
    module = _module(found)
    if module is not None:
        walk = _Walk(tensors)
        arrays, plain = walk.arrays(module), _Plain(tensors)
        metadata = {
            "class": _kind(module),
            "kwargs": plain.values(module[1].get("_init_kwargs")),
            "modules": {n: {"class": _kind(m), **plain.held(m)} for n, m in walk.modules.items()},
        }
        encoder = _object(content.get(ENCODER)) if isinstance(content, dict) else None
        if encoder is not None:
            metadata[ENCODER] = {"class": _kind(encoder), **plain.held(encoder)}
        return arrays, metadata
    if found is None:
        held = f"it holds {listed(content)}" if isinstance(content, dict) else "it is no dict"
        raise Unreadable(
            f"no network under {listed(keys)}; {held}; name the right key, or save a state dict"
        )
    require(all(isinstance(name, str) for name in found), "a parameter's name is no text")
    return {
        name: tensors.array(name, value) for name, value in found.items() if is_array(value)
    }, {}


def _find(content: Any, keys: tuple[str, ...]) -> Any:
    """The first module or state dict on the way that `keys` lead; None if there is none."""
    seen: set[int] = set()

    def search(value: Any, levels: int) -> Any:
        if _module(value) is not None:
            return value
        if not isinstance(value, dict) or id(value) in seen or not levels:
            return None
        seen.add(id(value))
        if value and all(map(is_array, value.values())):
            return value
        return next(
            (found for k in keys if (found := search(value.get(k), levels - 1)) is not None), None
        )

    found = search(content, 4)
    if found is None and isinstance(content, dict):
        # A state dict with numbers or texts beside the tensors.
        kinds = {is_array(v) or isinstance(v, str | int | float | None) for v in content.values()}
        found = content if kinds == {True} and any(map(is_array, content.values())) else None
    return found


def _object(value: Any) -> Parts | None:
    """Class and attributes of a pickled object of a known class; None for anything else."""
    if not isinstance(value, Call):
        return None
    if value.name in CONTAINERS:
        name, state = value.name, value.state
    elif value.name == PERSISTENT:
        # Its source, which is in `meta` too, is left alone.
        meta = value.args[0]
        name, state = meta["class_name"], meta.get("state")
    else:
        return None
    return (name, state) if isinstance(state, dict) else None


def _module(value: Any) -> Parts | None:
    """`_object`, where it is a module."""
    found = _object(value)
    return found if found is not None and "_modules" in found[1] else None


def _kind(parts: Parts) -> str:
    return parts[0].rpartition(".")[2]


class _Walk:
    """`Module.state_dict`: parameters, then buffers that are saved, then what is in submodules."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._left = PARTS
        self.modules: dict[str, Parts] = {}

    def arrays(
        self, module: Parts, prefix: str = "", levels: int = LEVELS
    ) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        require(levels > 0, "its modules are nested too deep")
        self.modules[prefix.removesuffix(".")] = module
        state = module[1]
        unsaved = state.get("_non_persistent_buffers_set")
        unsaved = {n for n in unsaved if isinstance(n, str)} if isinstance(unsaved, list) else set()
        for kind, without in (("_parameters", set()), ("_buffers", unsaved)):
            for name, value in self._items(state, kind):
                if value is not None and name not in without:
                    require(prefix + name not in found, f"it has {shown(prefix + name)} twice")
                    found[prefix + name] = self._tensors.array(prefix + name, value)
        for name, value in self._items(state, "_modules"):
            part = _module(value)
            require(part is not None or value is None, f"{shown(prefix + name)} is no module")
            inner = self.arrays(part, f"{prefix}{name}.", levels - 1) if part else {}
            require(
                not found.keys() & inner.keys(), f"it has names in {shown(prefix + name)} twice"
            )
            found |= inner
        return found

    def _items(self, state: Mapping[Any, Any], kind: str) -> list[tuple[str, Any]]:
        part = state.get(kind, {})
        sound = isinstance(part, dict) and all(isinstance(n, str) and len(n) < 256 for n in part)
        require(sound, f"its {kind} are garbled")
        self._left -= len(part) + 1
        require(self._left > 0, f"it has over {PARTS} parameters")
        return list(part.items())


class _Plain:
    """The plain values that pickled objects hold, within bounds; `"<object>"` stands for anything else."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._left = VALUES

    def values(self, attributes: Any) -> dict[str, Any]:
        """The arguments a module was made with."""
        return self._plain(attributes, 8) if isinstance(attributes, dict) else {}

    def held(self, parts: Parts) -> dict[str, Any]:
        """The public attributes of an object that are numbers, texts, or short lists or arrays of them."""
        public = {n: v for n, v in parts[1].items() if isinstance(n, str) and not n.startswith("_")}
        return {n: self._plain(v, 1) for n, v in public.items() if not _is_long(v)}

    def _plain(self, value: Any, levels: int) -> Any:
        self._left -= 1
        require(self._left > 0, "its arguments are without end")
        if isinstance(value, str | int | float | None):
            return value
        if isinstance(value, list | tuple) and levels:
            return [self._plain(v, levels - 1) for v in value]
        if isinstance(value, dict) and levels:
            return {k: self._plain(v, levels - 1) for k, v in value.items() if isinstance(k, str)}
        if is_array(value):
            array = self._tensors.array("an argument", value)
            return array.tolist() if array.size <= SHORT else OBJECT
        number = scalar(value)
        return OBJECT if number is None else number


def _is_long(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list | tuple) and len(value) > SHORT)
