"""Headers of arrays: read as numpy reads them, or refused, and never evaluated."""

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmkit.storage.npy import LONGEST, read_header

KINDS = ("|b1", "|u1", "<i2", ">i4", "<i8", "<f2", "<f4", ">f8", "<c8", "<c16")


def header(text: bytes, version: int = 1, length: int | None = None) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes((version, 0)) + size + text


def by_numpy(content: bytes):
    stream = io.BytesIO(content)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    return shape, fortran, dtype, stream.tell()


@given(
    kind=st.sampled_from(KINDS),
    shape=st.lists(st.integers(0, 3), max_size=6).map(tuple),
    fortran=st.booleans(),
)
def test_what_numpy_writes(kind, shape, fortran):
    stream = io.BytesIO()
    np.save(stream, np.zeros(shape, kind, order="F" if fortran else "C"))
    found = read_header(io.BytesIO(stream.getvalue()))
    assert (found.shape, found.fortran, found.dtype, found.start) == by_numpy(stream.getvalue())


FIELD = st.sampled_from(["descr", "fortran_order", "shape", "x"]).map(repr)
VALUE = st.one_of(
    st.sampled_from(
        [*map(repr, KINDS), "'|O'", "'<U4'", "'<V2'", "[('a', '<f4')]", "True", "__x__"]
    ),
    st.lists(st.integers(-(2**70), 2**70), max_size=4).map(lambda sides: repr(tuple(sides))),
    st.sampled_from(["(3L, 4L)", "()", "(2, 3,)", "(0,0)", "(" * 150, "-" * 3000 + "1"]),
    st.sampled_from(["(3)", "(1 2)", "(,)", "(2,,3)", "(03, 1)", "(2,) * 9", "(+2,)", "(2_0,)"]),
    st.text(max_size=9).map(repr),
    st.binary(max_size=9).map(lambda b: b.decode("latin1")),
)
FORM = st.tuples(st.sampled_from([*KINDS, "|O"]), st.booleans(), VALUE).map(
    lambda parts: "{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}\n".format(*parts)
)
ODD_FORM = st.lists(st.tuples(FIELD, VALUE), max_size=4).map(
    lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}\n"
)


@settings(max_examples=400, deadline=None)
@given(text=FORM | ODD_FORM, version=st.sampled_from([1, 2]), cut=st.none() | st.integers(0, 40))
def test_what_is_accepted_is_what_numpy_reads(text, version, cut):
    content = header(text.encode("latin1", "replace"), version)
    content = content if cut is None else content[: len(content) - cut]
    try:
        found = read_header(io.BytesIO(content))
    except ValueError:
        return
    shape, fortran, dtype, start = by_numpy(content)
    assert (found.shape, found.fortran, found.start) == (shape, fortran, start)
    assert found.dtype in (None, dtype)
    assert (found.dtype is None) == (dtype.kind not in "biufc")


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(content):
    for start in (b"", b"\x93NUMPY\1\0", b"\x93NUMPY\2\0", b"\x93NUMPY\3\0"):
        with pytest.raises(ValueError, match=r"like an|plain array"):
            read_header(io.BytesIO(start + content))


class Endless(io.BufferedIOBase):
    """A header without end, as a zip archive packs it into next to nothing."""

    taken = 0

    def __init__(self, start: bytes) -> None:
        self._start = start

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        start, self._start = self._start[:size], self._start[size:]
        self.taken += size
        return start + bytes(size - len(start))


def test_no_more_is_taken_than_the_longest_header():
    for length in (LONGEST, LONGEST + 1, 2**32 - 1):
        stream = Endless(header(b"", 2, length))
        with pytest.raises(ValueError, match="plain array"):
            read_header(stream)
        assert stream.taken <= LONGEST + 12
