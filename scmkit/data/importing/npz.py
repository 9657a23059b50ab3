"""An `.npz` file, streamed: nothing is unpickled and no array is loaded whole."""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from scmkit.containment import unpacked
from scmkit.data.importing.source import Block, Source, rows_per_block
from scmkit.data.layout import StoredDtype
from scmkit.errors import DataError
from scmkit.interfaces import Split
from scmkit.npy import read_header

_SAMPLES = {"images": "labels", "x": "y", "arr_0": None}
_KEYS = "x_train/y_train/x_test/y_test, images/labels, x/y or arr_0"


@dataclass(frozen=True)
class _Member:
    """One array of the file, of which the header has been read and checked."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def stream(self) -> Iterator[Shaped[np.ndarray, "n *shape"]]:
        """The rows of the array in blocks."""
        rows = rows_per_block(self.shape[1:], self.dtype.itemsize)
        with (
            _reading(self.path, self.key),
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
def _reading(path: Path, key: str) -> Iterator[None]:
    """Turns what zipfile and numpy raise for a damaged file into a `DataError`."""
    try:
        yield
    # What damaged headers make numpy, ast, zipfile and zlib raise has no common base.
    except Exception as error:
        raise DataError(
            f"{path}: array '{key}' is damaged ({_reason(error)}); save the file again"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _member(archive: zipfile.ZipFile, path: Path, key: str) -> _Member:
    where = f"{path}: array '{key}'"
    with _reading(path, key):
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
    return _Member(path, key, shape, dtype)


def open_npz(path: Path) -> Source:
    """Reads the headers of an `.npz` file and its labels.

    Keys: `x_train` (with `y_train`, `x_test`, `y_test`), or `images` (`labels`), `x` (`y`),
    `arr_0`. Samples: images of 1 or 3 channels `n h w`, `n h w c` or `n c h w`, uint8 or float in
    [-1, 1]; or vectors `n d`, taken as they are. Raises `DataError` for everything else.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        raise DataError(
            f"{path}: not an .npz file ({_reason(error)}); write it with numpy.savez"
        ) from error
    with archive:
        names = {name[:-4] for name in archive.namelist() if name.endswith(".npy")}
        keys = _keys(path, names)
        samples: dict[Split, _Member] = {
            split: _member(archive, path, x) for split, (x, _) in keys.items()
        }
        labels = {
            split: _labels(archive, path, y, samples[split]) for split, (_, y) in keys.items()
        }
    train = samples["train"]
    for member in samples.values():
        if (member.shape[1:], member.dtype) != (train.shape[1:], train.dtype):
            raise DataError(
                f"{path}: '{member.key}' has samples {member.dtype} {member.shape[1:]}, but "
                f"'{train.key}' has {train.dtype} {train.shape[1:]}; they must agree"
            )
    shape, dtype, convert = _layout(path, train)
    values = [block for block in labels.values() if block is not None]
    num_classes = max((int(block.max()) + 1 for block in values), default=0)
    if num_classes > sum(len(block) for block in values) > 0:
        raise DataError(
            f"{path}: labels go up to {num_classes - 1}, for fewer samples than that; "
            f"number the classes 0, 1, 2, ..."
        )

    def read(split: Split) -> Iterator[Block]:
        done, known = 0, labels[split]
        lowest = 0.0
        for raw in samples[split].stream():
            block = convert(raw)
            if dtype == "float32":
                _check_values(path, samples[split].key, block, done, image=len(shape) == 3)
                lowest = min(lowest, float(block.min()))
            rows = slice(done, done + len(block))
            done += len(block)
            yield block, None if known is None else known[rows]
        if dtype == "float32" and len(shape) == 3 and lowest >= 0:
            raise DataError(
                f"{path}: images in '{samples[split].key}' lie in [0, 1], and float images are "
                f"taken to be in [-1, 1]; save 2 * x - 1, or (255 * x).round() as uint8"
            )

    sizes: dict[Split, int] = {split: member.shape[0] for split, member in samples.items()}
    return Source(
        shape=shape,
        dtype=dtype,
        num_classes=num_classes,
        class_names=(),
        sizes=sizes,
        read=read,
    )


def _keys(path: Path, names: set[str]) -> dict[Split, tuple[str, str | None]]:
    candidates = [key for key in ("x_train", *_SAMPLES) if key in names]
    if len(candidates) != 1:
        held = ", ".join(f"'{name}'" for name in sorted(names)) or "no arrays"
        problem = "more than one set of samples" if candidates else "no samples by a known name"
        raise DataError(f"{path}: {problem} (it holds {held}); use the keys {_KEYS}")
    if candidates != ["x_train"]:
        y = _SAMPLES[candidates[0]]
        return {"train": (candidates[0], y if y in names else None)}
    keys: dict[Split, tuple[str, str | None]] = {"train": ("x_train", None)}
    if "x_test" in names:
        keys["test"] = ("x_test", None)
    labelled = {name for name in ("y_train", "y_test") if name in names}
    if labelled:
        for split in keys:
            if f"y_{split}" not in labelled:
                raise DataError(
                    f"{path}: 'x_{split}' has no labels, but there is '{min(labelled)}'; "
                    f"add 'y_{split}' or remove '{min(labelled)}'"
                )
            keys[split] = (f"x_{split}", f"y_{split}")
    return keys


def _labels(
    archive: zipfile.ZipFile, path: Path, key: str | None, samples: _Member
) -> Int[np.ndarray, " n"] | None:
    if key is None:
        return None
    member = _member(archive, path, key)
    n = samples.shape[0]
    if member.shape not in ((n,), (n, 1)) or member.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels '{key}' are {member.dtype} {member.shape}, but '{samples.key}' needs "
            f"integers of shape ({n},)"
        )
    if problem := unpacked(path, n * member.dtype.itemsize):
        raise DataError(f"{path}: array '{key}' of labels {problem}")
    values = np.concatenate(list(member.stream())).reshape(n)
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise DataError(
            f"{path}: labels '{key}' lie in {values.min()}..{values.max()}; "
            f"number the classes 0, 1, 2, ..."
        )
    return values.astype(np.int32)


_Convert = Callable[[np.ndarray], np.ndarray]


def _layout(path: Path, member: _Member) -> tuple[tuple[int, ...], StoredDtype, _Convert]:
    """Shape and dtype of a sample as stored, and the function that brings a block there."""
    where = f"{path}: array '{member.key}'"
    shape, floating = member.shape[1:], member.dtype.kind == "f"
    if not floating and member.dtype != np.uint8:
        raise DataError(f"{where} is {member.dtype}; samples must be uint8 or float")

    def cast(block: np.ndarray) -> np.ndarray:
        # Overflow becomes infinity, which _check_values reports with its place.
        with np.errstate(over="ignore"):
            return block.astype(np.float32 if floating or len(shape) == 1 else np.uint8)

    if len(shape) == 1:
        return shape, "float32", cast
    dtype: StoredDtype = "float32" if floating else "uint8"
    if len(shape) == 2:
        return (1, *shape), dtype, lambda block: cast(block)[:, None]
    first, last = len(shape) == 3 and shape[0] in (1, 3), len(shape) == 3 and shape[-1] in (1, 3)
    if first == last:
        problem = "could be n,c,h,w as well as n,h,w,c" if first else "is not understood"
        raise DataError(
            f"{where}: shape {member.shape} {problem}; samples must be vectors n,d or images "
            f"n,h,w, n,h,w,c or n,c,h,w with 1 or 3 channels"
        )
    if first:
        return shape, dtype, cast
    height, width, channels = shape
    return (channels, height, width), dtype, lambda block: np.moveaxis(cast(block), -1, 1)


def _check_values(
    path: Path, key: str, block: Shaped[np.ndarray, "n *shape"], offset: int, image: bool
) -> None:
    with np.errstate(invalid="ignore"):
        good = np.abs(block) <= (1 if image else np.finfo(np.float32).max)
    good = good.all(axis=tuple(range(1, block.ndim)))
    if good.all():
        return
    first = int(np.argmin(good))
    values = block[first]
    if not np.isfinite(values).all():
        raise DataError(
            f"{path}: '{key}' has values that are not finite in float32 (sample {offset + first}); "
            f"remove or replace them"
        )
    raise DataError(
        f"{path}: float images must lie in [-1, 1], but sample {offset + first} of '{key}' lies in "
        f"[{values.min():g}, {values.max():g}]; save x / 127.5 - 1 for pixels of 0..255, or keep "
        f"those as uint8"
    )
