"""Batches of a data set, in an order that depends on the seed and the position alone."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from scmkit.errors import DataError
from scmkit.interfaces import AbstractDataset, DataSpec, Split

Batch = tuple[Float[np.ndarray, "b *shape"], Int[np.ndarray, " b"] | None]
Noise = Float[np.ndarray, "b *shape"]
States = Float[np.ndarray, "b times *shape"]

_AHEAD = 2


def epoch_order(size: int, seed: int, epoch: int) -> Int[np.ndarray, " size"]:
    """The permutation of `size` samples for one epoch, from a counter-based generator."""
    key = np.array([seed % 2**64, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(size)


class Loader(Iterator[Batch]):
    """An endless iterator of `(x, labels)`: float32 `b *shape` in the model's units, int32 `b`.

    Epoch after epoch, each in an order of its own, is one endless sequence of samples, cut into
    batches of `batch_size`: every batch is full, also where it is larger than the data set, and
    batch `i` depends on `(seed, i)` alone. A thread reads ahead; an exception in it is raised by
    `next`. Use it as a context manager or call `close`.

    **Arguments:**

    - `dataset`, `split`: where samples come from. Raises `DataError` if the split is empty.
    - `spec`: the normalisation (see `spec_of`).
    - `batch_size`: samples per batch.
    - `seed`: of the order.
    - `start`: the index of the first batch.
    - `noise`: whether the noise of each sample is read, too, into `last_noise`; of the train split of data
        that is `paired`. So are the states from there to the sample, if there are any, into `last_states`.
    - `part`: which part of every batch is read, and of how many equal ones; all of it by default.
    """

    last_noise: Noise | None = None
    """The noise of the samples that `next` returned last; None where none is read."""
    last_states: States | None = None
    """Their states between noise and sample, in the model's units; None where none are read."""

    def __init__(
        self,
        dataset: AbstractDataset,
        spec: DataSpec,
        batch_size: int,
        seed: int,
        split: Split = "train",
        *,
        start: int = 0,
        noise: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if batch_size < 1 or start < 0:
            raise ValueError(
                f"batch_size={batch_size} must be positive and start={start} not negative"
            )
        which, parts = part
        if batch_size % parts or not 0 <= which < parts:
            raise ValueError(f"batch_size={batch_size} has no part {which} of {parts} equal ones")
        self._own = slice(batch_size // parts * which, batch_size // parts * (which + 1))
        self._dataset = dataset
        self._spec = spec
        self._batch_size = batch_size
        self._seed = seed
        self._split: Split = split
        self._noise = noise
        self._size = dataset.size(split)
        if not self._size:
            raise DataError(
                f"data '{spec.source}': the {split} split is empty; import it with a test fraction "
                f"above 0, or use the other split"
            )
        self._position = start * batch_size
        self._epoch: tuple[int, np.ndarray] | None = None
        self._lock = threading.Lock()
        self._ahead: deque[Future[tuple[Batch, Noise | None, States | None]]] = deque()
        self._reader: ThreadPoolExecutor | None = None

    def _order(self, epoch: int) -> Int[np.ndarray, " size"]:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, epoch_order(self._size, self._seed, epoch)
        return self._epoch[1]

    def last_indices(self) -> Int[np.ndarray, " b"]:
        """Where in the split the samples of the batch are that `next` returned last."""
        with self._lock:
            return self._indices(self._position - self._batch_size)

    def _indices(self, position: int) -> Int[np.ndarray, " b"]:
        parts: list[np.ndarray] = []
        missing = self._batch_size
        while missing:
            epoch, offset = divmod(position, self._size)
            parts.append(self._order(epoch)[offset : offset + missing])
            position += len(parts[-1])
            missing -= len(parts[-1])
        return np.concatenate(parts)

    def _load(self, position: int) -> tuple[Batch, Noise | None, States | None]:
        with self._lock:
            indices = self._indices(position)[self._own]
            samples, labels = self._dataset.read(self._split, indices)
            noise = np.asarray(self._dataset.noise(indices), np.float32) if self._noise else None
            states = self._dataset.states(indices) if self._noise and self._dataset.times else None
        x = np.asarray(self._spec.normalize(samples), np.float32)
        if states is not None:
            states = np.asarray(self._spec.normalize(states), np.float32)
        return (x, None if labels is None else np.asarray(labels, np.int32)), noise, states

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="scmkit-loader")
        while len(self._ahead) <= _AHEAD:
            position = self._position + len(self._ahead) * self._batch_size
            self._ahead.append(self._reader.submit(self._load, position))
        try:
            batch, self.last_noise, self.last_states = self._ahead[0].result()
        except BaseException:
            # Keeps the position, so that a second attempt reads the same batch.
            self._drop()
            raise
        self._ahead.popleft()
        self._position += self._batch_size
        return batch

    def _drop(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def state(self) -> dict[str, Any]:
        """Where the next batch starts, as JSON: batches read ahead do not count."""
        return {"seed": self._seed, "position": self._position, "size": self._size}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state()` was taken, also with another batch size.

        Raises `DataError` when the state is of a data set of another size, or not a state.
        """
        try:
            seed, position, size = (int(state[name]) for name in ("seed", "position", "size"))
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{state!r} is not the state of a loader; use what Loader.state() returned"
            ) from None
        if size != self._size or position < 0:
            raise DataError(
                f"data '{self._spec.source}': the {self._split} split has {self._size} samples, "
                f"but the saved position {position} is in one of {size}; resume with the data set "
                f"that training began with"
            )
        self._drop()
        with self._lock:
            self._seed, self._position, self._epoch = seed, position, None

    def close(self) -> None:
        """Stops reading ahead; the next `next` starts it again."""
        self._drop()
        if self._reader is not None:
            self._reader.shutdown(wait=True, cancel_futures=True)
            self._reader = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
