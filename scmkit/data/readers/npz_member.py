"""One array of an `.npz` file: its header checked, its rows streamed."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from scmkit.data.readers.source import rows_per_block
from scmkit.errors import DataError
from scmkit.storage.containment import unpacked
from scmkit.storage.npy import read_header


@dataclass(frozen=True)
class Member:
    """One array of the file, of which the header has been read and checked."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def stream(self) -> Iterator[Shaped[np.ndarray, "n *shape"]]:
        """The rows of the array in blocks."""
        rows = rows_per_block(self.shape[1:], self.dtype.itemsize)
        with (
            reading(self.path, self.key),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self.key + ".npy") as stream,
        ):
            read_header(stream)
            for start in range(0, self.shape[0], rows):
                shape = (min(rows, self.shape[0] - start), *self.shape[1:])
                wanted = math.prod(shape) * self.dtype.itemsize
                data = stream.read(wanted)
                if len(data) != wanted:
                    raise EOFError(f"it ends {wanted - len(data)} bytes early")
                yield np.frombuffer(data, self.dtype).reshape(shape)
            # The checksum is compared when the end is met.
            stream.read(1)


@contextmanager
def reading(path: Path, key: str) -> Iterator[None]:
    """Turns what zipfile and numpy raise for a damaged file into a `DataError`."""
    try:
        yield
    # What damaged headers make numpy, ast, zipfile and zlib raise has no common base.
    except Exception as error:
        raise DataError(
            f"{path}: array '{key}' is damaged ({reason_of(error)}); save the file again"
        ) from error


def reason_of(error: Exception) -> str:
    """The first line of what an error says, or else its kind."""
    return (str(error) or type(error).__name__).splitlines()[0]


def read_member(archive: zipfile.ZipFile, path: Path, key: str) -> Member:
    """An array of the file; raises `DataError` for one that is damaged, or holds no numbers in rows."""
    where = f"{path}: array '{key}'"
    with reading(path, key):
        info = archive.getinfo(key + ".npy")
        # Others, which numpy never writes, may ask for gigabytes before they unpack a byte.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in an unknown way")
        with archive.open(info) as stream:
            header = read_header(stream)
    shape, dtype = header.shape, header.dtype
    if header.kind.endswith("O"):
        raise DataError(
            f"{where} holds Python objects, which scmkit does not unpickle; "
            f"save it as an array of numbers"
        )
    if dtype is None:
        raise DataError(f"{where} is {header.kind!r}, no array of numbers; save it as one")
    if header.fortran and len(shape) > 1:
        raise DataError(
            f"{where} is in Fortran order, which cannot be streamed; "
            f"save np.ascontiguousarray of it"
        )
    if not shape or min(shape) < 1:
        raise DataError(f"{where} has shape {shape} and holds no samples; save at least one")
    expected = header.start + math.prod(shape) * dtype.itemsize
    if info.file_size != expected:
        raise DataError(
            f"{where} is damaged: {info.file_size} bytes, but shape {shape} of {dtype} makes "
            f"{expected}; save the file again"
        )
    if problem := unpacked(path, math.prod(shape[1:]) * dtype.itemsize):
        raise DataError(f"{where} has shape {shape}: a sample of it {problem}")
    return Member(path, key, shape, dtype)
