"""The header of an `.npy` file (NEP 1), read by its form: numpy evaluates it as Python does a literal.

That bounds what a hostile one can do: no more than `LONGEST` bytes are taken, where version 2.0 can claim
4 GiB that a zip archive packs into four, and no brackets nest, where the parser of literals may run out of
stack.
"""

import re
from dataclasses import dataclass
from io import BufferedIOBase
from typing import IO

import numpy as np

LONGEST = 4096
"""The most bytes of a header; numpy's have 128, and some more for tens of dimensions."""

_SIDE = rb"(?:0|[1-9][0-9]{0,18})L?"
_FORM = re.compile(
    rb"\{'descr': '([^'\\]{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \((|%b,|%b(?:, ?%b){1,63},?)\),? ?\} *\n?" % (_SIDE, _SIDE, _SIDE)
)
"""What numpy writes, with the `L` of Python 2, and what others write that left out a comma."""

_NUMBERS = re.compile(r"[<>|=](b1|[iu][1248]|f[248]|c8|c16)")


@dataclass(frozen=True)
class Header:
    """A header: the array's type by numpy's name, its shape and order, and the bytes before the data."""

    kind: str
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def dtype(self) -> np.dtype | None:
        """The type; None where the elements are no numbers."""
        return np.dtype(self.kind) if _NUMBERS.fullmatch(self.kind) else None


def read_header(stream: IO[bytes] | BufferedIOBase) -> Header:
    """Reads a file up to the data. Raises `ValueError` where it has no header of an array of one type."""
    start = stream.read(8)
    if start not in (b"\x93NUMPY\1\0", b"\x93NUMPY\2\0"):
        raise ValueError("it does not begin like an .npy file")
    width = 2 * start[6]
    length = int.from_bytes(stream.read(width), "little")
    found = _FORM.fullmatch(stream.read(length)) if length <= LONGEST else None
    if found is None:
        raise ValueError("its header is none of a plain array")
    sides = (side.strip(b"L ") for side in found[3].split(b","))
    shape = tuple(int(side) for side in sides if side)
    return Header(found[1].decode("latin1"), shape, found[2] == b"True", 8 + width + length)
