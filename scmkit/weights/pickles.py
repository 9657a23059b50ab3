"""Pickles as inert data: what a pickle would call or build is noted down, and never done.

Python's own unpickler calls what it is given. Even where that is stand-ins only, it hashes any key and
reserves memory by the file's word. This one knows the opcodes of weight files (PEP 307, PEP 3154), and
all that they can do here is to move values on a stack.
"""

import pickle as op
import struct
from collections.abc import Callable
from typing import Any

from scmkit.weights.admitted import ADMITTED
from scmkit.weights.damage import Unreadable, require, shown
from scmkit.weights.inert import Call, Name, Storage, called, filled

MALICIOUS = "which no weight file needs; it may be malicious, do not load it elsewhere"
LONGEST = 32
"""Bytes of the longest integer; PyTorch's magic number has ten."""

CONSTANTS: dict[bytes, Any] = {op.NONE: None, op.NEWTRUE: True, op.NEWFALSE: False}
EMPTY: dict[bytes, Callable[[], Any]] = {
    op.EMPTY_LIST: list,
    op.EMPTY_DICT: dict,
    op.EMPTY_SET: list,
    op.EMPTY_TUPLE: tuple,
}
TUPLES = {op.TUPLE1: 1, op.TUPLE2: 2, op.TUPLE3: 3}
# Opcodes that bytes follow, and how many.
PUTS, GETS = {op.BINPUT: 1, op.LONG_BINPUT: 4}, {op.BINGET: 1, op.LONG_BINGET: 4}
UNSIGNED, SIGNED, REAL = {op.BININT1: 1, op.BININT2: 2}, {op.BININT: 4}, {op.BINFLOAT: 8}
SKIPPED = {op.PROTO: 1, op.FRAME: 8}
# Opcodes that a length follows, of which this is the size, and then as many bytes.
# `SHORT_BINSTRING` is how Python 2 wrote text, in files of those years.
TEXTS = {op.SHORT_BINSTRING: 1, op.SHORT_BINUNICODE: 1, op.BINUNICODE: 4, op.BINUNICODE8: 8}
BYTES = {op.SHORT_BINBYTES: 1, op.BINBYTES: 4, op.BINBYTES8: 8, op.BYTEARRAY8: 8}
LONGS = {op.LONG1: 1, op.LONG4: 4}
COUNTED = TEXTS | BYTES | LONGS
SIZES = PUTS | GETS | UNSIGNED | SIGNED | REAL | SKIPPED | COUNTED


class Pickle:
    """Reads the pickle in `data` from `at`. Bytes in it are views of `data`.

    Afterwards `value` is made of None, bool, int, float, str, memoryview, list, tuple, dict, `Name`,
    `Call` and `Storage`, `end` is where the pickle ends, and `storages` has what it refers to. Raises
    `Unreadable` for what no weight file needs.
    """

    def __init__(self, data: memoryview, at: int = 0) -> None:
        self._data, self.end = data, at
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        try:
            self.value = self._run()
        except (IndexError, KeyError, ValueError):
            raise Unreadable("it is damaged (a pickle is cut or garbled); fetch it again") from None

    def _run(self) -> Any:
        stack, memo = self._stack, self._memo
        others = self._others()
        data, size = self._data, len(self._data)
        while True:
            code = bytes((data[self.end],))
            start, self.end = self.end + 1, self.end + 1 + SIZES.get(code, 0)
            if code in COUNTED:
                length = int.from_bytes(data[start : self.end], "little")
                start, self.end = self.end, self.end + length
            if self.end > size:
                raise IndexError
            operand = data[start : self.end]
            if code in PUTS:
                memo[int.from_bytes(operand, "little")] = stack[-1]
            elif code in GETS:
                stack.append(memo[int.from_bytes(operand, "little")])
            elif code in TEXTS:
                stack.append(str(operand, "utf-8"))
            elif code in BYTES:
                stack.append(operand)
            elif code in UNSIGNED:
                stack.append(int.from_bytes(operand, "little"))
            elif code in TUPLES:
                if len(stack) < TUPLES[code]:
                    raise IndexError
                stack[-TUPLES[code] :] = [tuple(stack[-TUPLES[code] :])]
            elif code in others:
                others[code]()
            elif code in CONSTANTS:
                stack.append(CONSTANTS[code])
            elif code in EMPTY:
                stack.append(EMPTY[code]())
            elif code in SIGNED or code in LONGS:
                require(len(operand) <= LONGEST, f"it has a number of {len(operand)} bytes")
                stack.append(int.from_bytes(operand, "little", signed=True))
            elif code in REAL:
                stack.append(struct.unpack(">d", operand)[0])
            elif code == op.STOP:
                return stack.pop()
            elif code not in SKIPPED:
                raise Unreadable(f"its pickle has the opcode {code!r}, {MALICIOUS}")

    def _others(self) -> dict[bytes, Callable[[], Any]]:
        """The opcodes that nothing but their operands on the stack follows, and the names."""
        stack, memo = self._stack, self._memo
        return {
            op.MARK: lambda: self._marks.append(len(stack)),
            op.POP: lambda: stack.pop(),
            op.POP_MARK: lambda: self._marked(),
            op.MEMOIZE: lambda: memo.__setitem__(len(memo), stack[-1]),
            op.TUPLE: lambda: stack.append(tuple(self._marked())),
            op.LIST: lambda: stack.append(self._marked()),
            op.FROZENSET: lambda: stack.append(self._marked()),
            op.APPEND: lambda: self._extend([stack.pop()]),
            op.APPENDS: lambda: self._extend(self._marked()),
            op.ADDITEMS: lambda: self._extend(self._marked()),
            op.DICT: lambda: stack.append(filled({}, self._marked())),
            op.SETITEM: lambda: self._update([stack.pop(-2), stack.pop()]),
            op.SETITEMS: lambda: self._update(self._marked()),
            op.GLOBAL: lambda: stack.append(self._named(self._line(), self._line())),
            op.STACK_GLOBAL: lambda: stack.append(self._named(stack.pop(-2), stack.pop())),
            op.REDUCE: lambda: stack.append(called(stack.pop(-2), stack.pop())),
            op.NEWOBJ: lambda: stack.append(called(stack.pop(-2), stack.pop())),
            op.BUILD: lambda: self._build(stack.pop()),
            op.BINPERSID: lambda: stack.append(self._stored(stack.pop())),
        }

    def _line(self) -> str:
        line = bytes(self._data[self.end : self.end + 256]).partition(b"\n")[0]
        self.end += len(line) + 1
        return str(line, "utf-8")

    def _marked(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _extend(self, items: list[Any]) -> None:
        require(type(self._stack[-1]) is list, "it appends to what is no list")
        self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        require(type(self._stack[-1]) is dict, "it sets items of what is no dict")
        filled(self._stack[-1], items)

    def _named(self, module: Any, name: Any) -> Name:
        require(isinstance(module, str) and isinstance(name, str), "a name is no text")
        # From protocol 4 on a dotted name reaches into what a module has imported.
        if "." in name or f"{module}.{name}" not in ADMITTED:
            raise Unreadable(f"it asks for {shown(f'{module}.{name}')}, {MALICIOUS}")
        return Name(f"{module}.{name}")

    def _build(self, state: Any) -> None:
        target = self._stack[-1]
        require(type(target) in (Call, dict), "it sets the state of what has none")
        # The attributes of a dict (`_metadata` of a state dict) are of no use.
        if isinstance(target, Call):
            target.state = state

    def _stored(self, pid: Any) -> Storage:
        storage = Storage(pid)
        return self.storages.setdefault(storage.key, storage)
