"""IDX files, the format of MNIST and its relatives, plain or gzipped."""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from scmkit.data.classes import numbered
from scmkit.data.readers.source import Block, Source, rows_per_block
from scmkit.data.readers.tree import entries
from scmkit.errors import DataError
from scmkit.interfaces import Split
from scmkit.storage.containment import unpacked

_PREFIXES: dict[Split, str] = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 8
_GZIP = b"\x1f\x8b"
_PIECE = 1 << 20


def is_idx(path: Path) -> bool:
    """Whether a file begins like an IDX file of bytes, plain or gzipped."""
    try:
        with _opened(path) as stream:
            magic = stream.read(4)
    except DataError:
        return False
    return len(magic) == 4 and magic[:3] == bytes((0, 0, _UNSIGNED_BYTE)) and magic[3] > 0


def has_idx(folder: Path) -> bool:
    """Whether a folder holds one of MNIST's four files under one of its usual names."""
    return any(
        _named(folder, prefix, kind) is not None
        for prefix in _PREFIXES.values()
        for kind in ("images-idx3", "labels-idx1")
    )


def _named(folder: Path, prefix: str, kind: str) -> Path | None:
    stems = (f"{prefix}-{kind}-ubyte", f"{prefix}-{kind.replace('-', '.')}-ubyte")
    names = [stem + ending for stem in stems for ending in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def open_idx_folder(folder: Path, *, labels: bool | None = None) -> Source:
    """MNIST's four files: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and those of `t10k`.

    Either of the names' forms (`-idx3-` or `.idx3-`), each with or without `.gz`. Without `t10k` files
    there is no test split. `labels` False takes no labels; other files of the folder are in the source's
    remarks. Raises `DataError` for a missing partner or a damaged file.
    """
    files: dict[Split, tuple[Path, Path | None]] = {}
    for split, prefix in _PREFIXES.items():
        images = _named(folder, prefix, "images-idx3")
        partner = None if labels is False else _named(folder, prefix, "labels-idx1")
        if images is not None and (partner is not None or labels is False):
            files[split] = images, partner
        elif images is not None or partner is not None:
            missing = "labels-idx1" if partner is None else "images-idx3"
            without = ", or import without labels: --no-labels" if partner is None else ""
            raise DataError(
                f"{folder}: '{prefix}-{missing}-ubyte' is missing, plain or with .gz; "
                f"add it, or import a single images file{without}"
            )
    if "train" not in files:
        raise DataError(
            f"{folder}: 'train-images-idx3-ubyte' is missing, plain or with .gz; "
            f"add it, or import a single images file"
        )
    taken = {file for pair in files.values() for file in pair}
    others = [file.name for file in entries(folder)[1] if file not in taken]
    return _open(folder, files, tuple(f"unused   '{name}'" for name in others))


def open_idx(path: Path, *, labels: bool | None = None) -> Source:
    """One images file, with the labels file beside it if there is one and `labels` is not False.

    `images-idx3` in its name becomes `labels-idx1`; either file may be gzipped.

    Raises `DataError` where header, size and contents do not agree.
    """
    name = path.name.removesuffix(".gz")
    partner = name.replace("images", "labels").replace("idx3", "idx1")
    candidates = [path.with_name(partner), path.with_name(partner + ".gz")]
    found = next((file for file in candidates if partner != name and file.is_file()), None)
    if labels and found is None:
        raise DataError(f"{path}: no labels file '{partner}' beside it; leave --labels out")
    return _open(path, {"train": (path, None if labels is False else found)})


def _open(
    source: Path, files: dict[Split, tuple[Path, Path | None]], remarks: tuple[str, ...] = ()
) -> Source:
    shapes: dict[Split, tuple[int, ...]] = {}
    labels: dict[Split, np.ndarray] = {}
    for split, (images, partner) in files.items():
        shapes[split] = _checked_shape(images, 3)
        if partner is not None:
            (count,) = _checked_shape(partner, 1)
            if count != shapes[split][0]:
                raise DataError(
                    f"{partner}: {count} labels for the {shapes[split][0]} images of {images}; "
                    f"these files do not belong together"
                )
            labels[split] = np.concatenate(list(_rows(partner, (count,)))).astype(np.int32)
    numbers, num_classes, names = numbered(labels)
    height, width = shapes["train"][1:]
    for split, shape in shapes.items():
        if shape[1:] != (height, width):
            raise DataError(
                f"{source}: {split} images are {shape[1]}x{shape[2]}, train images "
                f"{height}x{width}; these files do not belong together"
            )

    def read(split: Split) -> Iterator[Block]:
        done, known = 0, numbers.get(split)
        for block in _rows(files[split][0], shapes[split]):
            rows = slice(done, done + len(block))
            done += len(block)
            yield block[:, None], None if known is None else known[rows]

    return Source(
        shape=(1, height, width),
        dtype="uint8",
        num_classes=num_classes,
        class_names=names,
        sizes={split: shape[0] for split, shape in shapes.items()},
        read=read,
        origins={
            split: f"file '{images.name}'" + (f" with labels '{partner.name}'" if partner else "")
            for split, (images, partner) in files.items()
        },
        remarks=remarks,
    )


@contextmanager
def _opened(path: Path) -> Iterator[gzip.GzipFile | IO[bytes]]:
    """The bytes of a file, gunzipped if need be; damage becomes a `DataError`."""
    try:
        with open(path, "rb") as plain:
            compressed = plain.read(2) == _GZIP
        with gzip.open(path) if compressed else open(path, "rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch the file again") from error


def _checked_shape(path: Path, dims: int) -> tuple[int, ...]:
    """The shape in the header, once magic, dimensions and length have been found to agree."""
    start = 4 + 4 * dims
    with _opened(path) as stream:
        header = stream.read(start)
        magic, expected_magic = header[:4], bytes((0, 0, _UNSIGNED_BYTE, dims))
        if magic != expected_magic:
            raise DataError(
                f"{path}: not an IDX file of bytes in {dims} dimension{'s' * (dims > 1)}: it "
                f"begins with 0x{magic.hex()}, expected 0x{expected_magic.hex()}; check that it is "
                f"the right file"
            )
        if len(header) < start:
            raise DataError(
                f"{path}: truncated: {len(header)} bytes, expected a header of {start}; "
                f"fetch the file again"
            )
        shape = struct.unpack(f">{dims}I", header[4:])
        if min(shape) < 1:
            raise DataError(f"{path}: its dimensions {shape} leave no samples; check the file")
        expected = start + math.prod(shape)
        found = start
        # Also a gzipped file is measured before anything of its claimed size is allocated.
        while found <= expected and (piece := stream.read(_PIECE)):
            found += len(piece)
    if found != expected:
        more = "or more" if found > expected else "in all"
        raise DataError(
            f"{path}: dimensions {shape} make {expected} bytes, found {found} {more}; "
            f"fetch the file again"
        )
    # What is held at once: one image, or all labels.
    held = math.prod(shape[1:]) if dims > 1 else shape[0]
    if problem := unpacked(path, held):
        kind = "an image" if dims > 1 else "all of it"
        raise DataError(f"{path}: dimensions {shape}: {kind} {problem}")
    return shape


def _rows(path: Path, shape: tuple[int, ...]) -> Iterator[UInt8[np.ndarray, "n *shape"]]:
    rows = rows_per_block(shape[1:], 1)
    with _opened(path) as stream:
        stream.read(4 + 4 * len(shape))
        for start in range(0, shape[0], rows):
            block = (min(rows, shape[0] - start), *shape[1:])
            data = stream.read(math.prod(block))
            if len(data) != math.prod(block):
                raise DataError(f"{path}: changed while it was read; import it again")
            yield np.frombuffer(data, np.uint8).reshape(block)
