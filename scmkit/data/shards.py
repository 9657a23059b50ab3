"""Writing the samples of a split, a whole shard at a time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from scmkit.data.digest import RunningDigest, rows_at_once
from scmkit.data.layout import StoredDtype, create_labels, create_samples, samples_per_shard
from scmkit.data.store import from_uint8
from scmkit.interfaces import SplitDigest


class SplitWriter:
    """Collects samples into whole shards, so that each shard is written once.

    `beside` names the arrays that are kept with the samples, `noise` and `states`, and their shapes.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        dtype: StoredDtype,
        *,
        labelled: bool,
        beside: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._samples = create_samples(folder / "samples", shape, dtype)
        self._labels = create_labels(folder / "labels") if labelled else None
        self._beside = {
            name: create_samples(folder / name, of, "float32") for name, of in beside.items()
        }
        _, self._shard = samples_per_shard(shape, np.dtype(dtype).itemsize)
        self._buffer = np.empty((self._shard, *shape), dtype)
        self._buffered_labels = np.empty(self._shard, np.int32)
        self._buffered_beside = {
            name: np.empty((self._shard, *of), np.float32) for name, of in beside.items()
        }
        self._filled = 0
        self._written = 0
        self._digest = RunningDigest()

    @property
    def size(self) -> int:
        return self._written + self._filled

    @property
    def digest(self) -> SplitDigest:
        """Of all that was flushed."""
        return self._digest.result()

    def append(
        self,
        samples: Shaped[np.ndarray, "n *shape"],
        labels: Int[np.ndarray, " n"] | None,
        beside: Mapping[str, Float[np.ndarray, "n ..."]],
    ) -> None:
        taken = 0
        while taken < len(samples):
            count = min(self._shard - self._filled, len(samples) - taken)
            target = slice(self._filled, self._filled + count)
            self._buffer[target] = samples[taken : taken + count]
            if labels is not None:
                self._buffered_labels[target] = labels[taken : taken + count]
            for name, values in beside.items():
                self._buffered_beside[name][target] = values[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == self._shard:
                self.flush()

    def flush(self) -> None:
        if not self._filled:
            return
        start, stop = self._written, self._written + self._filled
        samples, labels = self._buffer[: self._filled], self._buffered_labels[: self._filled]
        beside = {name: values[: self._filled] for name, values in self._buffered_beside.items()}
        self._samples = _extend(self._samples, start, stop, samples)
        if self._labels is not None:
            self._labels = _extend(self._labels, start, stop, labels)
        for name, values in beside.items():
            self._beside[name] = _extend(self._beside[name], start, stop, values)
        rows = rows_at_once(samples.shape[1:])
        for first in range(0, len(samples), rows):
            block = samples[first : first + rows]
            self._digest.update(
                from_uint8(block) if block.dtype == np.uint8 else block,
                None if self._labels is None else labels[first : first + rows],
                **{name: values[first : first + rows] for name, values in beside.items()},
            )
        self._written, self._filled = stop, 0


def _extend(array: Any, start: int, stop: int, values: Shaped[np.ndarray, "..."]) -> Any:
    array = array.resize(exclusive_max=[stop, *array.shape[1:]], expand_only=True).result()
    array[start:stop].write(values).result()
    return array
