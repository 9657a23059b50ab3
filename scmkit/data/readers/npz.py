"""An `.npz` file, streamed: nothing is unpickled and no array is loaded whole."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from scmkit.data.classes import numbered
from scmkit.data.layout import StoredDtype
from scmkit.data.readers.names import KEYS, UNSURE, choose_arrays
from scmkit.data.readers.npz_member import Member, read_member, reading, reason_of
from scmkit.data.readers.source import Block, Source
from scmkit.errors import DataError
from scmkit.interfaces import Split
from scmkit.storage.containment import unpacked
from scmkit.storage.npy import read_header


def open_npz(path: Path, *, labels: bool | None = None) -> Source:
    """Reads the headers of an `.npz` file and its labels.

    Arrays are recognised by their names (see `choose_arrays`): `x_train`, `y_train`, `x_test`, `y_test`;
    `train_images`, `train_labels` and so on; `images` and `labels`, `x` and `y`, `arr_0` and `arr_1`; a
    validation split is the test split where there is no other. Those that are not used are in the
    source's remarks; `labels` False takes no labels. Samples: images of 1 or 3 channels `n h w`, `n h w
    c` or `n c h w`, uint8 or float in [-1, 1]; or vectors `n d`, taken as they are. Labels are any whole
    numbers from 0 on, a class each. Raises `DataError` for everything else.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
        raise DataError(
            f"{path}: not an .npz file ({reason_of(error)}); write it with numpy.savez"
        ) from error
    with archive:
        held = dict.fromkeys(archive.namelist())
        arrays = [name[:-4] for name in held if name.endswith(".npy")]
        chosen = choose_arrays(path, arrays, labels is not False)
        samples: dict[Split, Member] = {
            split: read_member(archive, path, x) for split, x in chosen.samples.items()
        }
        found: dict[Split, np.ndarray] = {}
        unused = {name: "no array" for name in held if not name.endswith(".npy")} | chosen.unused
        for split, key in chosen.labels.items():
            if key in UNSURE and not _could_be_labels(archive, path, key, samples[split]):
                unused[key] = "no labels"
                continue
            found[split] = _labels(archive, path, key, samples[split])
    if found and len(found) < len(samples):
        other = next(iter(found))
        raise DataError(
            f"{path}: only the {other} split has labels ('{chosen.labels[other]}'); add the others, or "
            f"import without labels: --no-labels"
        )
    if labels and not found:
        raise DataError(f"{path}: no labels by a known name; leave --labels out, or use {KEYS}")
    train = samples["train"]
    for member in samples.values():
        if (member.shape[1:], member.dtype) != (train.shape[1:], train.dtype):
            raise DataError(
                f"{path}: '{member.key}' has samples {member.dtype} {member.shape[1:]}, but "
                f"'{train.key}' has {train.dtype} {train.shape[1:]}; they must agree"
            )
    shape, dtype, convert = _layout(path, train)
    numbers, num_classes, names = numbered(found)
    if names and 1 < num_classes == sum(map(len, numbers.values())):
        raise DataError(
            f"{path}: labels are all different, from {names[0]} to {names[-1]}, so they are no classes; "
            f"import without them: --no-labels"
        )

    def read(split: Split) -> Iterator[Block]:
        done, known = 0, numbers.get(split)
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
        class_names=names,
        sizes=sizes,
        read=read,
        origins={
            split: _origin(m.key, chosen.labels, found, split) for split, m in samples.items()
        },
        remarks=tuple(f"unused   '{key}': {reason}" for key, reason in unused.items()),
    )


def _origin(
    key: str, labels: dict[Split, str], found: dict[Split, np.ndarray], split: Split
) -> str:
    return f"array '{key}'" + (f" with labels '{labels[split]}'" if split in found else "")


def _could_be_labels(archive: zipfile.ZipFile, path: Path, key: str, samples: Member) -> bool:
    """Whether an array whose name alone says little has one whole number for each sample."""
    with reading(path, key), archive.open(key + ".npy") as stream:
        header = read_header(stream)
    n = samples.shape[0]
    return header.shape in ((n,), (n, 1)) and header.dtype is not None and header.dtype.kind in "iu"


def _labels(
    archive: zipfile.ZipFile, path: Path, key: str, samples: Member
) -> Int[np.ndarray, " n"]:
    member = read_member(archive, path, key)
    n = samples.shape[0]
    if member.shape not in ((n,), (n, 1)) or member.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels '{key}' are {member.dtype} {member.shape}, but '{samples.key}' needs "
            f"integers of shape ({n},); save them so, or import without them: --no-labels"
        )
    if problem := unpacked(path, n * member.dtype.itemsize):
        raise DataError(f"{path}: array '{key}' of labels {problem}")
    values = np.concatenate(list(member.stream())).reshape(n)
    if values.min() < 0 or values.max() > np.iinfo(np.int32).max:
        raise DataError(
            f"{path}: labels '{key}' lie in {values.min()}..{values.max()}; "
            f"number the classes 0, 1, 2, ..., or import without labels: --no-labels"
        )
    return values.astype(np.int32)


_Convert = Callable[[np.ndarray], np.ndarray]


def _layout(path: Path, member: Member) -> tuple[tuple[int, ...], StoredDtype, _Convert]:
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
