"""Tensors and numpy arrays of a pickle, from the calls that would have made them."""

import math
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from scmkit.weights.admitted import (
    ENCODE,
    FROM_BYTES,
    NO_BYTES,
    NUMPY_ARRAYS,
    NUMPY_BUFFERS,
    NUMPY_DTYPE,
    NUMPY_SCALARS,
    PARAMETERS,
    TENSORS,
)
from scmkit.weights.damage import Unreadable, require, shown
from scmkit.weights.inert import Call, Storage

DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""The types that `np.dtype` does not know by name."""

ARRAYS = TENSORS | PARAMETERS | NUMPY_ARRAYS | NUMPY_BUFFERS
COPIES = 4
"""Arrays may take that many times the size of their file: tied weights are one array here."""

Elements = Callable[[Storage], np.ndarray]
"""The elements of a storage, one after another."""


def is_array(value: Any) -> bool:
    """Whether a value of a pickle would have been a tensor or an array."""
    return isinstance(value, Call) and value.name in ARRAYS


def typed(data: memoryview, storage: Storage) -> np.ndarray:
    """The bytes of a storage as its elements."""
    dtype = DTYPES.get(storage.dtype) or np.dtype(storage.dtype)
    fits = len(data) == storage.numel * dtype.itemsize
    require(fits, f"storage {shown(storage.key)} has not the size that it says")
    return np.frombuffer(data, dtype)


def scalar(value: Any) -> Any:
    """The number that a numpy scalar holds; None for anything else."""
    if not (isinstance(value, Call) and value.name in NUMPY_SCALARS and len(value.args) == 2):
        return None
    return _numbers("a number", value.args[1], (), value.args[0]).item()


class Tensors:
    """Makes arrays, each a copy of its part of a storage; all within `size` bytes, times `COPIES`.

    `elements` finds storages that a persistent id refers to, `embedded` reads those that lie in the
    pickle itself, as bytes of their own.
    """

    def __init__(
        self, elements: Elements, embedded: Callable[[memoryview], np.ndarray], size: int
    ) -> None:
        self._elements, self._embedded = elements, embedded
        self._left = COPIES * size
        # Beside the object they were made from, so that no other has its id meanwhile.
        self._flat: dict[int, tuple[Any, np.ndarray]] = {}
        self._made: dict[Any, np.ndarray] = {}

    def array(self, name: str, value: Any) -> np.ndarray:
        """The array that parameter `name` would have been."""
        while isinstance(value, Call) and value.name in PARAMETERS:
            value = value.args[0] if value.args else None
        if isinstance(value, Call) and value.name in TENSORS:
            return self._tensor(name, value.args)
        require(is_array(value), f"{shown(name)} is no tensor")
        if id(value) not in self._made:
            array = _array(name, value)
            self._spend(name, array.nbytes)
            self._made[id(value)] = array.copy()
        return self._made[id(value)]

    def _tensor(self, name: str, args: tuple[Any, ...]) -> np.ndarray:
        require(len(args) >= 4, f"{shown(name)} is garbled")
        # Beyond these: gradients, hooks, and whether it is conjugated or negated on reading.
        require(not any(args[6:]), f"{shown(name)} is a lazy view")
        flat = self._of(name, args[0])
        offset, size, stride = args[1], _sides(name, args[2]), _sides(name, args[3])
        made = (id(flat), offset, size, stride)
        if made not in self._made:
            _check(name, flat.size, offset, size, stride)
            self._spend(name, math.prod(size) * flat.itemsize)
            # A side of one is never stepped along, and its stride may be anything.
            steps = [s * flat.itemsize * (n > 1) for n, s in zip(size, stride, strict=True)]
            view = np.lib.stride_tricks.as_strided(flat[offset:], size, steps, writeable=False)
            self._made[made] = view.copy()
        return self._made[made]

    def _of(self, name: str, storage: Any) -> np.ndarray:
        source = storage
        if isinstance(storage, Call) and storage.name == FROM_BYTES and len(storage.args) == 1:
            source = storage.args[0]
        if id(source) not in self._flat:
            if isinstance(source, Storage):
                self._flat[id(source)] = source, self._elements(source)
            else:
                self._flat[id(source)] = source, self._embedded(_bytes(name, source))
        return self._flat[id(source)][1]

    def _spend(self, name: str, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Unreadable(
                f"its arrays, up to {shown(name)}, are many times larger than itself; "
                "save them without overlap"
            )


def _sides(name: str, value: Any) -> tuple[int, ...]:
    """A shape or strides, counted in elements."""
    if isinstance(value, Call) and value.name == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    sides = tuple(value) if isinstance(value, tuple | list) and len(value) <= 32 else (-1,)
    sound = all(type(n) is int and 0 <= n < 1 << 48 for n in sides)
    require(sound, f"{shown(name)} has an impossible shape or stride")
    return sides


def _check(
    name: str, there: int, offset: Any, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    """Checks that a strided view stays within the `there` elements of its storage."""
    sound = type(offset) is int and 0 <= offset <= there and len(size) == len(stride)
    require(sound, f"{shown(name)} has an impossible offset or stride")
    # No more elements than there are, which a stride of zero could make of one.
    require(math.prod(size) <= there, f"{shown(name)} is larger than its storage")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    require(0 in size or last < there, f"{shown(name)} reaches beyond its storage")


def _bytes(name: str, value: Any) -> memoryview:
    if isinstance(value, Call) and value.name == ENCODE and value.args[1:] == ("latin1",):
        text = value.args[0]
        return memoryview(text.encode("latin1") if isinstance(text, str) else b"")
    if isinstance(value, Call) and value.name in NO_BYTES and not value.args:
        return memoryview(b"")
    if not isinstance(value, memoryview):
        raise Unreadable(f"it is damaged ({shown(name)} has no data); fetch it again")
    return value


def _array(name: str, call: Call) -> np.ndarray:
    """A pickled numpy array, of protocol 5 or of those before."""
    if call.name in NUMPY_BUFFERS:
        require(len(call.args) == 4, f"{shown(name)} is garbled")
        data, dtype, shape, order = call.args
        return _numbers(name, data, shape, dtype, fortran=order == "F")
    state = call.state
    if not isinstance(state, tuple) or len(state) != 5:
        raise Unreadable(f"it is damaged ({shown(name)} is garbled); fetch it again")
    return _numbers(name, state[4], state[1], state[2], fortran=state[3] is True)


def _numbers(name: str, data: Any, shape: Any, dtype: Any, *, fortran: bool = False) -> np.ndarray:
    """Bytes as an array, by the call and the state that would have made numpy's dtype."""
    kind = order = None
    if isinstance(dtype, Call) and dtype.name == NUMPY_DTYPE and dtype.args:
        kind, state = dtype.args[0], dtype.state
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
    number = isinstance(kind, str) and re.fullmatch(r"b1|[iu][1248]|f[248]|c(8|16)", kind)
    require(bool(number), f"{shown(name)} holds no numbers")
    require(order in ("<", "|"), f"{shown(name)} is of another byte order")
    flat = np.frombuffer(_bytes(name, data), np.dtype(f"<{kind}"))
    size = _sides(name, shape)
    require(math.prod(size) == flat.size, f"{shown(name)} has not the size that it says")
    return flat.reshape(size, order="F" if fortran else "C")
