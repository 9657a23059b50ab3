"""What a compiled program costs each device: what passes between devices, and its operations.

Read from the program as it is compiled, so that nothing is missed which the compiler adds.
"""

import operator
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, reduce
from math import prod
from typing import Any

import numpy as np

from scmkit.distribution.hlo import Instruction, Program, called, parse

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "collective-permute",
    "all-to-all",
    "collective-broadcast",
    "ragged-all-to-all",
)
"""What may pass between devices."""

FLOPS = "flops"

Devices = tuple[int, ...]


@dataclass(frozen=True)
class Collective:
    """All that a program passes in one way among one group of devices; other groups do the same beside it.

    **Attributes:**

    - `kind`: one of `KINDS`.
    - `group`: the devices of the first group, by their numbers.
    - `bytes`: the bytes of the whole arrays: of what is gathered as it is afterwards, of what is reduced as
        it is before.
    """

    kind: str
    group: Devices
    bytes: float

    @property
    def sent(self) -> float:
        """The bytes that each device sends, and receives, along a ring."""
        n = len(self.group)
        match self.kind:
            case "all-reduce":
                return 2 * self.bytes * (n - 1) / n
            case "all-gather" | "reduce-scatter" | "all-to-all" | "ragged-all-to-all":
                return self.bytes * (n - 1) / n
        return self.bytes if n > 1 else 0.0


@dataclass(frozen=True)
class ProgramCosts:
    """The costs of a program for each device.

    **Attributes:**

    - `flops`: floating-point operations of matrix products and convolutions; a multiplication and an
        addition are two.
    - `collectives`: what passes between devices, one entry for each kind and group.
    """

    flops: float
    collectives: tuple[Collective, ...]

    def bytes(self, kind: str) -> float:
        """The bytes of whole arrays that pass in one way."""
        return sum(one.bytes for one in self.collectives if one.kind == kind)


def program_costs(text: str) -> ProgramCosts:
    """The costs of the program that `compiled.as_text()` shows.

    The body of a loop counts as often as it runs, where the compiler knows that, and else once; of branches
    the dearest one counts. An operation that is in flight while others run counts once. Raises `ValueError`
    where matrix products are hidden in calls of a library.
    """
    program = parse(text)

    @cache
    def of(computation: str) -> Any:
        total: Any = Counter()
        for one in program.computations[computation]:
            total.update(_own(program, one))
            if one.opcode.endswith(("-done", "-update")):
                continue
            times = int(one.attribute(r'known_trip_count"?:\{"?n"?:"(\d+)"') or 1)
            for names in called(one):
                dearest = reduce(operator.or_, map(of, names))
                total.update({what: times * much for what, much in dearest.items()})
        return total

    total = of(program.entry)
    flops = total.pop(FLOPS, 0.0)
    return ProgramCosts(
        flops, tuple(Collective(kind, group, much) for (kind, group), much in total.items())
    )


def _own(program: Program, one: Instruction) -> dict[Any, float]:
    """The costs of an instruction itself."""
    kind = one.opcode.removesuffix("-start")
    if kind in KINDS:
        group = _group(program, one)
        whole = sum(shape.bytes for shape in program.given(one))
        return {(kind, group): whole * (len(group) if kind == "all-gather" else 1)}
    if one.opcode == "dot":
        sides = program.given(one)[0].sides
        depth = prod(sides[axis] for axis in one.numbers("lhs_contracting_dims"))
        return {FLOPS: 2.0 * one.shapes[0].size * depth}
    if one.opcode == "convolution":
        return {FLOPS: 2.0 * one.shapes[0].size * _taps(program, one)}
    target = one.attribute(r'custom_call_target="([^"]*)"') or ""
    if re.search("matmul|gemm|dot|conv", target, re.IGNORECASE):
        raise ValueError(f"the program hides matrix products in calls of '{target}'")
    return {}


def _taps(program: Program, one: Instruction) -> float:
    """How many products each output of a convolution is the sum of."""
    window = one.attribute(r"window=\{([^}]*)\}") or ""
    sides = {name: value for name, _, value in (part.partition("=") for part in window.split())}
    size, spread = (
        prod(int(n) for n in sides.get(name, "1").split("x")) for name in ("size", "lhs_dilate")
    )
    labels = one.attribute(r"dim_labels=\w+?_(\w+)->") or ""
    # Of a dilated input all but one in so many values are zeros that nobody multiplies.
    return size * program.given(one)[1].sides[labels.index("i")] / spread


def _group(program: Program, one: Instruction) -> Devices:
    """The first group of devices among which something passes; all of them where that is not said."""
    if pair := one.attribute(r"source_target_pairs=\{\{([\d,]+)\}"):
        return tuple(int(n) for n in pair.split(","))
    if listed := one.attribute(r"replica_groups=\{\{([\d,]+)\}"):
        return tuple(int(n) for n in listed.split(","))
    # Groups in rows of a grid: [32,8]<=[256], or [8,32]<=[32,8]T(1,0).
    if rows := one.attribute(r"replica_groups=\[\d+,(\d+)\]"):
        return tuple(_numbered(one.attribute(r"<=(\S+?),? ") or "")[: int(rows)])
    # Axes of a mesh: mesh['a'=8,'b'=32] {'a'}, the devices in another order where it says so.
    if axes := one.attribute(r"replica_groups=mesh\[([^\]]*)\]"):
        sides = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes)}
        along = re.findall(r"'(\w+)'", one.attribute(r"replica_groups=mesh.*? \{([^}]*)\}") or "")
        order = one.attribute(r"device_ids=\((\S+)\)")
        grid = np.array(_numbered(order or f"[{program.devices}]")).reshape(*sides.values())
        at = tuple(slice(None) if name in along else 0 for name in sides)
        return tuple(int(n) for n in grid[at].ravel())
    return tuple(range(program.devices))


def _numbered(order: str) -> list[int]:
    """The devices in the order `[32,8]T(1,0)`: of a grid of that form, with its axes in turn."""
    sides, *axes = (
        [int(n) for n in part.split(",")] for part in re.findall(r"[\[(]([\d,]+)[\])]", order)
    )
    grid = np.arange(prod(sides)).reshape(sides)
    return [int(n) for n in grid.transpose(*axes).ravel()]
