"""Importing data of several kinds into a store."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.data.importing.folder import MAX_IMAGES, MAX_PIXELS, Skipped, open_folder
from scmkit.data.importing.idx import has_idx, is_idx, open_idx, open_idx_folder
from scmkit.data.importing.images import refit
from scmkit.data.importing.npz import open_npz
from scmkit.data.importing.source import Block, Source
from scmkit.data.store import Store
from scmkit.data.writer import StoreWriter, refuse_existing
from scmkit.errors import DataError, UsageError
from scmkit.interfaces import Split

_KINDS = "a folder of images, an .npz file, an IDX images file, or a folder of MNIST's IDX files"

MAX_BYTES = 1 << 40
"""Bytes of the samples of a store, by default."""

Progress = Callable[[int, int], None]


def import_data(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    size: int | None = None,
    grayscale: bool | None = None,
    test_fraction: float = 0.1,
    seed: int = 0,
    skip_non_images: bool = False,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_images: int = MAX_IMAGES,
    max_bytes: int = MAX_BYTES,
    skipped: Skipped = lambda file, reason: None,
    progress: Progress | None = None,
) -> Store:
    """Imports data into a new store at `dest`, streaming; nothing is unpickled.

    **Arguments:**

    - `source`: a folder of images (`open_folder`), an `.npz` file (`open_npz`), an IDX file
        (`open_idx`) or a folder of them (`open_idx_folder`).
    - `size`: centre-crops images to squares and resizes them to `size x size`.
    - `grayscale`: True for one channel, False for three, None for what the images are.
    - `test_fraction`: the share drawn for the test split, where the source has none of its own.
    - `seed`: of that draw.
    - `skip_non_images`: passes over other files in a folder of images.
    - `skip_bad`: passes over damaged, cut, too large and too deep images too; each image is decoded twice.
    - `max_pixels`, `max_images`: of one image, and of a folder; `max_bytes`: of the store's samples.
    - `skipped`: called as `skipped(file, reason)` for each file that is passed over.
    - `progress`: called as `progress(done, total)` in samples.

    Raises `BadFilesError`, which names each, for files that cannot be imported, and `DataError` where the
    source is not what it should be or `dest` exists.
    """
    if not 0 <= test_fraction < 1:
        raise UsageError(f"test fraction {test_fraction} must be at least 0 and below 1")
    if size is not None and size < 1:
        raise UsageError(f"size {size} must be at least 1 pixel")
    refuse_existing(Path(dest))
    limits = {"max_pixels": max_pixels, "max_images": max_images}
    skips = {"skip_non_images": skip_non_images, "skip_bad": skip_bad, "skipped": skipped}
    found = _open(Path(source), size, grayscale, {**limits, **skips})
    total = sum(found.sizes.values())
    asked = total * math.prod(found.shape) * np.dtype(found.dtype).itemsize
    if asked > max_bytes:
        raise DataError(
            f"{source}: its samples take {asked} bytes, over the limit of {max_bytes}; choose "
            f"a smaller --size, or raise --max-bytes if that is meant"
        )
    done = 0
    with StoreWriter(
        dest,
        shape=found.shape,
        dtype=found.dtype,
        num_classes=found.num_classes,
        class_names=found.class_names,
    ) as writer:
        for split, (samples, labels) in _blocks(found, Path(source), test_fraction, seed):
            writer.append(split, samples, labels)
            done += len(samples)
            if progress is not None:
                progress(done, total)
    return Store(dest)


def _open(path: Path, size: int | None, grayscale: bool | None, options: dict[str, Any]) -> Source:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; import takes {_KINDS}")
    if path.is_dir():
        if has_idx(path):
            return refit(open_idx_folder(path), path, size, grayscale)
        return open_folder(path, size=size, grayscale=grayscale, **options)
    if path.suffix == ".npz":
        return refit(open_npz(path), path, size, grayscale)
    if is_idx(path):
        return refit(open_idx(path), path, size, grayscale)
    raise DataError(f"{path}: not a kind of data that is known; import takes {_KINDS}")


def _blocks(
    source: Source, path: Path, test_fraction: float, seed: int
) -> Iterator[tuple[Split, Block]]:
    if "test" in source.sizes:
        for split in source.sizes:
            for block in source.read(split):
                yield split, block
        return
    n = source.sizes["train"]
    n_test = max(1, round(n * test_fraction)) if test_fraction else 0
    if n_test == n:
        raise DataError(
            f"{path}: with {n} samples and a test fraction of {test_fraction} none is left to "
            f"train on; choose a smaller --test-fraction"
        )
    is_test = np.zeros(n, bool)
    is_test[np.random.Generator(np.random.Philox(seed)).permutation(n)[:n_test]] = True
    done = 0
    for samples, labels in source.read("train"):
        mask = is_test[done : done + len(samples)]
        done += len(samples)
        masks: dict[Split, np.ndarray] = {"train": ~mask, "test": mask}
        for split, chosen in masks.items():
            if chosen.any():
                yield split, (samples[chosen], None if labels is None else labels[chosen])
