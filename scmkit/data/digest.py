"""What a data set is known again by: digests of its splits."""

import hashlib

import numpy as np
from jaxtyping import Float, Int

from scmkit.interfaces import AbstractDataset, DataDigest, Split, SplitDigest

LIMIT = 256 << 20
"""Bytes of a split in memory, or made as it is read, up to which all of it is looked at."""

_SOME = 1024
_BLOCK = 1 << 24


class RunningDigest:
    """SHA-256 of the samples and the labels of a split, added in order, in blocks of any size."""

    def __init__(self) -> None:
        self._size = 0
        self._samples, self._labels = hashlib.sha256(), hashlib.sha256()

    def update(
        self,
        samples: Float[np.ndarray, "n *shape"],
        labels: Int[np.ndarray, " n"] | None,
        noise: Float[np.ndarray, "n *shape"] | None = None,
        states: Float[np.ndarray, "n times *shape"] | None = None,
    ) -> None:
        """Add samples as they are read: float32 in the data's units, int32 labels, and what pairs have."""
        self._size += len(samples)
        if noise is not None:
            samples = np.stack([samples, noise], axis=1)
        if states is not None:
            samples = np.concatenate([samples, states], axis=1)
        self._samples.update(np.ascontiguousarray(samples, "<f4").reshape(-1).data)
        if labels is not None:
            self._labels.update(np.ascontiguousarray(labels, "<i4").data)

    def result(self, size: int | None = None) -> SplitDigest:
        """What was added so far; `size` is that of the split, where not all of it was."""
        size = self._size if size is None else size
        return SplitDigest(size, self._samples.hexdigest(), self._labels.hexdigest())


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many float32 samples are held at once to be hashed: 16 MiB of them, or one."""
    return max(1, _BLOCK // (4 * int(np.prod(shape))))


def digest_of(dataset: AbstractDataset, *, limit: int | None = None) -> DataDigest:
    """The digest of a data set by reading it, a block at a time.

    Of a split of more than `limit` bytes, 1024 samples at equal distances and its size stand for all: data
    that is made as it is read may be endless.
    """
    return DataDigest(
        _split(dataset, "train", limit),
        _split(dataset, "test", limit),
        tuple(getattr(dataset, "class_names", ())),
    )


def _split(dataset: AbstractDataset, split: Split, limit: int | None) -> SplitDigest:
    size, sample = dataset.size(split), 4 * int(np.prod(dataset.shape))
    whole = limit is None or size * sample <= limit or size <= _SOME
    count = size if whole else _SOME
    rows, running = rows_at_once(dataset.shape), RunningDigest()
    for start in range(0, count, rows):
        places = np.arange(start, min(start + rows, count))
        # In whole numbers: a float64 does not hold every place of a large split.
        indices = (
            places if whole else np.asarray([int(i) * (size - 1) // (count - 1) for i in places])
        )
        paired = dataset.paired and split == "train"
        noise = dataset.noise(indices) if paired else None
        states = dataset.states(indices) if paired and dataset.times else None
        running.update(*dataset.read(split, indices), noise, states)
    return running.result(size)
