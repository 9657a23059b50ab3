"""The text of a compiled program (HLO), as far as its costs are to be read from it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")


@dataclass(frozen=True)
class Shape:
    """An array of a program, as one device has it."""

    dtype: str
    sides: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.sides)

    @property
    def bytes(self) -> float:
        """The bytes of all elements; 0 of what is no array."""
        bits = re.search(r"\d+", self.dtype)  # As in bf16, s32 or f8e4m3fn.
        return self.size * (int(bits[0]) / 8 if bits else float(self.dtype == "pred"))


@dataclass(frozen=True)
class Instruction:
    """One line of a program.

    **Attributes:**

    - `name`: the name of its value, unique in the program.
    - `shapes`: the arrays of its value.
    - `opcode`: what it does, such as `dot`.
    - `operands`: the names of the values that it takes.
    - `attributes`: all else, as it is written.
    """

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str | None:
        """What the group of a pattern matches in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def numbers(self, name: str) -> tuple[int, ...]:
        """The numbers of an attribute such as `dimensions={0,1}`; none where it is missing."""
        text = self.attribute(rf"\b{name}=\{{([\d,]*)\}}")
        return tuple(int(n) for n in text.split(",")) if text else ()


@dataclass(frozen=True)
class Program:
    """A compiled program.

    **Attributes:**

    - `entry`: the name of the computation that it begins with.
    - `computations`: the instructions of every computation, by its name.
    - `values`: every instruction by its name.
    - `devices`: how many devices run it together.
    """

    entry: str
    computations: dict[str, list[Instruction]]
    values: dict[str, Instruction]
    devices: int

    def given(self, instruction: Instruction) -> list[Shape]:
        """The arrays that an instruction takes."""
        return [shape for name in instruction.operands for shape in self.values[name].shapes]


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` shows; raises `ValueError` for other text."""
    entry, body, computations = None, [], {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            body = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            body.append(_instruction(*found.groups()))
    if entry is None:
        raise ValueError("this text holds no compiled program: give `compiled.as_text()`")
    values = {one.name: one for body in computations.values() for one in body}
    devices = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
    return Program(entry, computations, values, int(devices[1]) if devices else 1)


def called(instruction: Instruction) -> Iterator[list[str]]:
    """The computations that an instruction runs: each list holds those of which one is chosen."""
    branches = instruction.attribute(r"branch_computations=\{([^}]*)\}")
    if branches:
        yield re.findall(r"[\w.\-]+", branches)
    choice = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", instruction.attributes)
    if choice:
        yield choice
    for name in re.findall(
        r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)", instruction.attributes
    ):
        yield [name]


def _instruction(name: str, type_: str, opcode: str, rest: str) -> Instruction:
    operands, _, attributes = rest.partition(")")
    shapes = tuple(
        Shape(dtype, tuple(int(n) for n in sides.split(",") if n))
        for dtype, sides in _SHAPE.findall(type_)
    )
    names = tuple(re.findall(r"%([\w.\-]+)", operands))
    return Instruction(name, shapes, opcode, names, attributes)
