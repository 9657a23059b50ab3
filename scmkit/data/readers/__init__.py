"""Importing data of several kinds into a store."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from scmkit.data.classes import LISTED, class_name
from scmkit.data.layout import as_read
from scmkit.data.readers.dataset import open_dataset
from scmkit.data.readers.decoding import MAX_PIXELS
from scmkit.data.readers.folder import MAX_IMAGES, Skipped, open_folder
from scmkit.data.readers.idx import has_idx, is_idx, open_idx, open_idx_folder
from scmkit.data.readers.images import refit
from scmkit.data.readers.npz import open_npz
from scmkit.data.readers.source import Block, Source
from scmkit.data.statistics import RunningStatistics, constant_channels
from scmkit.data.store import Store
from scmkit.data.writer import StoreWriter, refuse_existing
from scmkit.errors import DataError, UsageError
from scmkit.interfaces import AbstractDataset, Split
from scmkit.storage.inputs import check_input
from scmkit.terminal import say

_KINDS = "a folder of images, an .npz file, an IDX images file, or a folder of MNIST's IDX files"

MAX_BYTES = 1 << 40
"""Bytes of the samples of a store, by default."""

Progress = Callable[[int, int], None]


def import_data(
    source: str | os.PathLike[str] | AbstractDataset,
    dest: str | os.PathLike[str],
    *,
    size: int | None = None,
    grayscale: bool | None = None,
    labels: bool | None = None,
    drop_constant: bool = False,
    test_fraction: float = 0.1,
    seed: int = 0,
    skip_non_images: bool = False,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_images: int = MAX_IMAGES,
    max_bytes: int = MAX_BYTES,
    skipped: Skipped = lambda file, reason: None,
    progress: Progress | None = None,
    told: Callable[[str], None] = say,
) -> Store:
    """Imports data into a new store at `dest`, streaming; nothing is unpickled.

    **Arguments:**

    - `source`: a folder of images (`open_folder`), an `.npz` file (`open_npz`), an IDX file
        (`open_idx`) or a folder of them (`open_idx_folder`); or a data set (`open_dataset`).
    - `size`: centre-crops images to squares and resizes them to `size x size`.
    - `grayscale`: True for one channel, False for three, None for what the images are.
    - `labels`: False takes none; True takes subfolders for classes, also where they look like pieces of
        one set, and insists on labels; None takes what is found.
    - `drop_constant`: leaves out channels (of vectors: coordinates) that are constant in the train split,
        which no model can be trained on; the source is then read twice.
    - `test_fraction`: the share drawn for the test split, where the source has none of its own.
    - `seed`: of that draw.
    - `skip_non_images`: passes over other files in a folder of images.
    - `skip_bad`: passes over damaged, cut, too large and too deep images too; each image is decoded twice.
    - `max_pixels`, `max_images`: of one image, and of a folder; `max_bytes`: of the store's samples.
    - `skipped`: called as `skipped(file, reason)` for each file that is passed over.
    - `progress`: called as `progress(done, total)` in samples.
    - `told`: called with lines that say how the source was understood, before anything is written, and what
        is not used; by default they go to stderr.

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
    if isinstance(source, AbstractDataset):
        path = Path("the data set")
        found = refit(open_dataset(source, labels=labels), path, size, grayscale)
    else:
        path = Path(source)
        found = _open(path, size, grayscale, labels, {**limits, **skips})
    total = sum(found.sizes.values())
    asked = total * math.prod(found.shape) * np.dtype(found.dtype).itemsize
    if asked > max_bytes:
        raise DataError(
            f"{path}: its samples take {asked} bytes, over the limit of {max_bytes}; choose "
            f"a smaller --size, or raise --max-bytes if that is meant"
        )
    is_test = _drawn(found, path, test_fraction, seed)
    for line in found.understood(int(is_test.sum())):
        told(line)
    if drop_constant:
        found, line = _without_constant(found, path, is_test)
        told(line)
    done, counts = 0, np.zeros(found.num_classes, np.int64)
    with StoreWriter(
        dest,
        shape=found.shape,
        dtype=found.dtype,
        num_classes=found.num_classes,
        class_names=found.class_names,
        licences=found.licences,
    ) as writer:
        for split, (samples, numbers) in _blocks(found, is_test):
            writer.append(split, samples, numbers)
            if numbers is not None and split == "train":
                counts += np.bincount(numbers, minlength=len(counts))
            done += len(samples)
            if progress is not None:
                progress(done, total)
    store = Store(dest)
    if untrained := [class_name(i, found.class_names) for i, n in enumerate(counts) if not n]:
        more = f" and {len(untrained) - 1} more" if len(untrained) > 1 else ""
        told(
            f"warning  class '{untrained[0]}'{more}: all samples are in the test split, so that no model can "
            f"learn it"
        )
    if constant := constant_channels(store.statistics()):
        told(
            f"warning  {_channels(constant)} constant, and no model can be trained on that: remove "
            f"this store and import again with --drop-constant"
        )
    return store


def _open(
    path: Path,
    size: int | None,
    grayscale: bool | None,
    labels: bool | None,
    options: dict[str, Any],
) -> Source:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; import takes {_KINDS}")
    if path.is_dir():
        if has_idx(path):
            return refit(open_idx_folder(path, labels=labels), path, size, grayscale)
        return open_folder(path, size=size, grayscale=grayscale, labels=labels, **options)
    try:
        check_input(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; import takes {_KINDS}") from error
    if path.suffix.lower() == ".npz":
        return refit(open_npz(path, labels=labels), path, size, grayscale)
    if is_idx(path):
        return refit(open_idx(path, labels=labels), path, size, grayscale)
    raise DataError(f"{path}: not a kind of data that is known; import takes {_KINDS}")


def _drawn(source: Source, path: Path, test_fraction: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Which samples of the source go to the test split; none where it has a test split of its own."""
    n = source.sizes["train"]
    is_test = np.zeros(n, bool)
    if "test" in source.sizes:
        return is_test
    n_test = max(1, round(n * test_fraction)) if test_fraction else 0
    if n_test == n:
        raise DataError(
            f"{path}: with {n} samples and a test fraction of {test_fraction} none is left to "
            f"train on; choose a smaller --test-fraction"
        )
    is_test[np.random.Generator(np.random.Philox(seed)).permutation(n)[:n_test]] = True
    return is_test


def _blocks(source: Source, is_test: Bool[np.ndarray, " n"]) -> Iterator[tuple[Split, Block]]:
    if "test" in source.sizes:
        for split in source.sizes:
            for block in source.read(split):
                yield split, block
        return
    done = 0
    for samples, labels in source.read("train"):
        mask = is_test[done : done + len(samples)]
        done += len(samples)
        masks: dict[Split, np.ndarray] = {"train": ~mask, "test": mask}
        for split, chosen in masks.items():
            if chosen.any():
                yield split, (samples[chosen], None if labels is None else labels[chosen])


def _without_constant(
    source: Source, path: Path, is_test: Bool[np.ndarray, " n"]
) -> tuple[Source, str]:
    """The source less the channels that are constant in its train split, and what to say of that."""
    channels = source.shape[0]
    running = RunningStatistics(channels)
    for split, (samples, _) in _blocks(source, is_test):
        if split == "train":
            running.update(samples)
    constant = constant_channels(running.result(*as_read(source.dtype)))
    if len(constant) == channels:
        raise DataError(f"{path}: every channel is constant, so that there is nothing to train on")
    if not constant:
        return source, "dropped  nothing: no channel is constant"
    kept = np.delete(np.arange(channels), constant)

    def read(split: Split) -> Iterator[Block]:
        for samples, labels in source.read(split):
            yield samples[:, kept], labels

    shape = (len(kept), *source.shape[1:])
    return replace(source, shape=shape, read=read), f"dropped  {_channels(constant)} constant"


def _channels(numbers: Sequence[int]) -> str:
    """`channel 2 is` or `channels 0, 1, 5 are`, of many the first few."""
    if len(numbers) == 1:
        return f"channel {numbers[0]} is"
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    return f"channels {', '.join(map(str, numbers[:LISTED]))}{more} are"
