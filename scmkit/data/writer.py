"""Writing a store: streamed, and complete or not there at all."""

import json
import os
import shutil
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float, Int, Shaped

from scmkit.data.layout import (
    FORMAT,
    METADATA_FILE,
    SPLITS,
    VERSION,
    PairsRecord,
    StoredDtype,
    StoreMetadata,
    as_read,
)
from scmkit.data.shards import SplitWriter
from scmkit.data.staging import hidden_folder, remove_abandoned
from scmkit.data.statistics import RunningStatistics
from scmkit.errors import DataError, RunError
from scmkit.interfaces import Split
from scmkit.storage.files import plain_path, sync_directory, write_durably
from scmkit.storage.locks import DirectoryLock


def refuse_existing(path: Path) -> None:
    """Raises `DataError` when something is at `path` already."""
    if os.path.lexists(path):
        raise DataError(
            f"{path}: exists already, and a store is never overwritten; "
            f"choose another DEST or remove it first"
        )


class StoreWriter:
    """A context manager that writes a store, one block of samples after another.

    It writes into a hidden folder beside `path` that takes its name at the end; when the body
    raises, nothing stays behind. Memory is bounded by a few shards (32 MiB each, or
    one sample where that is larger).

    **Arguments:**

    - `path`: where the store will be. Nothing may be there yet; missing parents are made.
    - `shape`: of one sample.
    - `dtype`: `"uint8"` for images `c h w` of 0..255, `"float32"` for anything else.
    - `num_classes`, `class_names`: 0 and none for data without labels.
    - `pairs`: how training samples were drawn of which each comes with its noise; None for other data.
    - `licences`: whose the samples are and under which licence, a line for each origin.

    Raises `DataError` for an existing `path`, one that cannot be written, values that are not
    finite, labels out of range, and a train split without samples.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        shape: tuple[int, ...],
        dtype: StoredDtype,
        num_classes: int = 0,
        class_names: tuple[str, ...] = (),
        pairs: PairsRecord | None = None,
        licences: tuple[str, ...] = (),
    ) -> None:
        if not shape or min(shape) < 1:
            raise ValueError(f"the shape of a sample needs axes of length 1 or more, not {shape}")
        if class_names and len(class_names) != num_classes:
            raise ValueError(f"{len(class_names)} class names for {num_classes} classes")
        self.path = plain_path(path)
        self.shape = shape
        self.dtype: StoredDtype = dtype
        self.num_classes = num_classes
        self.class_names = class_names
        self.pairs = pairs
        self.licences = licences
        self._folder: Path | None = None
        self._lock: DirectoryLock | None = None
        self._made: list[Path] = []
        self._splits: dict[Split, SplitWriter] = {}
        self._statistics = RunningStatistics(shape[0])

    def __enter__(self) -> "StoreWriter":
        refuse_existing(self.path)
        target = Path(os.path.abspath(self.path))
        try:
            for parent in reversed(target.parents):
                if not parent.exists():
                    parent.mkdir()
                    self._made.append(parent)
            remove_abandoned(target)
            folder, self._lock = hidden_folder(target)
            self._folder = folder
            for split in SPLITS:
                writer = SplitWriter(
                    folder / split,
                    self.shape,
                    self.dtype,
                    labelled=self.num_classes > 0,
                    beside=self._beside(split),
                )
                self._splits[split] = writer
        except (ValueError, OSError, RunError) as error:
            self._discard()
            raise self._explained(error) from error
        except BaseException:
            self._discard()
            raise
        return self

    def _beside(self, split: Split) -> dict[str, tuple[int, ...]]:
        """What is kept with the samples of a split, and its shape."""
        if self.pairs is None or split != "train":
            return {}
        times = len(self.pairs.times)
        return {"noise": self.shape} | ({"states": (times, *self.shape)} if times else {})

    def append(
        self,
        split: Split,
        samples: Shaped[np.ndarray, "n *shape"],
        labels: Int[np.ndarray, " n"] | None = None,
        noise: Float[np.ndarray, "n *shape"] | None = None,
        states: Float[np.ndarray, "n times *shape"] | None = None,
    ) -> None:
        """Adds samples of the declared shape and dtype, with labels if there are classes.

        The `noise` of each, in float32, comes with the training samples of a store of pairs, and no others;
        so do the `states` between where the pairs have times.
        """
        if self._folder is None:
            raise ValueError(
                "a StoreWriter is used as a context manager: with StoreWriter(...) as w:"
            )
        if samples.dtype != self.dtype or samples.shape[1:] != self.shape:
            raise ValueError(
                f"samples must be {self.dtype} (n, {', '.join(map(str, self.shape))}), "
                f"not {samples.dtype} {samples.shape}"
            )
        writer = self._splits[split]
        if self.num_classes:
            _check_labels(self.path, labels, len(samples), self.num_classes, writer.size)
        elif labels is not None:
            raise ValueError("labels were given, but num_classes is 0")
        given = {"noise": noise, "states": states}
        beside = {name: values for name, values in given.items() if values is not None}
        due = {name: (len(samples), *of) for name, of in self._beside(split).items()}
        if {name: values.shape for name, values in beside.items()} != due:
            raise ValueError(
                "the training samples of a store of pairs come with noise, no others, and with states where "
                f"it has times: {due or 'neither'} here"
            )
        if any(values.dtype != np.float32 for values in beside.values()):
            raise ValueError("noise and states must be float32")
        if self.dtype == "float32":
            finite = np.isfinite(samples).all(axis=tuple(range(1, samples.ndim)))
            if not finite.all():
                first = writer.size + int(np.argmin(finite))
                raise DataError(
                    f"{self.path}: {split} sample {first} has values that are not finite; "
                    f"remove NaN and infinity from the source"
                )
        if split == "train":
            self._statistics.update(samples)
        try:
            writer.append(samples, labels, beside)
        except (ValueError, OSError) as error:
            raise self._explained(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._folder is not None:
                self._finish(self._folder)
        except (ValueError, OSError) as failure:
            raise self._explained(failure) from failure
        finally:
            self._discard()

    def _finish(self, folder: Path) -> None:
        if not self._splits["train"].size:
            raise DataError(
                f"{self.path}: the train split would be empty; give at least one sample"
            )
        for writer in self._splits.values():
            writer.flush()
        for group in (folder, *(folder / split for split in SPLITS)):
            write_durably(group / "zarr.json", b'{"zarr_format": 3, "node_type": "group"}\n')
        files = {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != METADATA_FILE
        }
        metadata = StoreMetadata(
            format=FORMAT,
            version=VERSION,
            dtype=self.dtype,
            shape=self.shape,
            num_classes=self.num_classes,
            class_names=self.class_names,
            sizes={split: writer.size for split, writer in self._splits.items()},
            statistics=self._statistics.result(*as_read(self.dtype)),
            files=files,
            digests={split: writer.digest for split, writer in self._splits.items()},
            pairs=self.pairs,
            licences=self.licences,
        )
        text = json.dumps(metadata.to_json(), indent=2)
        # TensorStore has made its files durable, but not the folders that it made.
        write_durably(folder / METADATA_FILE, f"{text}\n".encode())
        for inner, _, _ in os.walk(folder):
            sync_directory(Path(inner))
        # Renaming onto an empty folder would succeed, and hide it.
        refuse_existing(self.path)
        folder.rename(os.path.abspath(self.path))
        sync_directory(folder.parent)
        self._folder = None
        self._made = []

    def _discard(self) -> None:
        """Removes what was written, unless it has been renamed into place."""
        if self._lock is not None:
            self._lock.__exit__(None, None, None)
            self._lock = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        for parent in reversed(self._made):
            # Someone else may have put something there meanwhile.
            try:
                parent.rmdir()
            except OSError:
                break
        self._made = []

    def _explained(self, error: Exception) -> DataError:
        text = str(error).split(" [tensorstore_spec", 1)[0]
        return DataError(
            f"{self.path}: cannot write the store ({text}); "
            f"check that the place is writable and has room"
        )


def _check_labels(
    path: Path, labels: Int[np.ndarray, " n"] | None, count: int, num_classes: int, offset: int
) -> None:
    if labels is None or len(labels) != count:
        found = "none" if labels is None else len(labels)
        raise ValueError(f"{count} samples need as many labels, not {found}")
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"{path}: sample {offset + first} has label {labels[first]}, but there are "
            f"{num_classes} classes; labels count from 0"
        )
