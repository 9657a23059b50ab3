"""Data sets held in memory."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from scmkit.data.layout import as_read
from scmkit.data.statistics import RunningStatistics
from scmkit.data.store import from_uint8
from scmkit.interfaces import AbstractDataset, AbstractDensity, Split, Statistics


class ArrayDataset(AbstractDataset):
    """A data set in memory, from samples and, with classes, integer labels.

    **Arguments:**

    - `train`, `test`: samples `n *shape` in the data's own units (images `c h w` in [-1, 1]); or images of 8
        bits, which are kept as they are and read as `x / 127.5 - 1`.
    - `train_labels`, `test_labels`: class indices from 0, both or neither.
    - `num_classes`: the number of classes; 0 without labels.
    - `density`: what the samples were drawn from, where it is known in closed form.
    - `class_names`: what the classes are called; none, or one for each.
    - `levels`: how many equally spaced values from -1 to 1 images are made of; 0 if continuous, or of 8 bits.
    - `licences`: whose the samples are and under which licence, a line for each origin.

    Raises `ValueError` where these do not fit together.
    """

    def __init__(
        self,
        train: Float[np.ndarray, "n ..."] | UInt8[np.ndarray, "n ..."],
        test: Float[np.ndarray, "m ..."] | UInt8[np.ndarray, "m ..."],
        *,
        train_labels: Int[np.ndarray, " n"] | None = None,
        test_labels: Int[np.ndarray, " m"] | None = None,
        num_classes: int = 0,
        density: AbstractDensity | None = None,
        levels: int = 0,
        class_names: tuple[str, ...] = (),
        licences: tuple[str, ...] = (),
    ) -> None:
        self.shape = tuple(train.shape[1:])
        self.num_classes = num_classes
        self.class_names = class_names
        self.licences = licences
        bits8 = train.dtype == np.uint8
        if bits8 != (test.dtype == np.uint8) or (bits8 and levels not in (0, 256)):
            raise ValueError("images of 8 bits are of 256 levels, and both splits are, or neither")
        kept = np.uint8 if bits8 else np.float32
        self._samples: dict[Split, np.ndarray] = {
            "train": np.asarray(train, kept),
            "test": np.asarray(test, kept),
        }
        self._labels: dict[Split, np.ndarray] = {}
        self._density = density
        self.levels = 256 if bits8 else levels
        self._statistics: Statistics | None = None
        if not self.shape or test.shape[1:] != train.shape[1:]:
            raise ValueError(
                f"samples must be arrays of one shape: train has {train.shape[1:]}, "
                f"test has {test.shape[1:]}"
            )
        if not len(train):
            raise ValueError("the train split is empty")
        if levels < 0 or levels == 1:
            raise ValueError(f"levels={levels}: two at least, or 0 for continuous samples")
        if class_names and len(class_names) != num_classes:
            raise ValueError(f"{len(class_names)} class names for {num_classes} classes")
        if num_classes:
            self._labels["train"] = self._checked(train_labels, "train")
            self._labels["test"] = self._checked(test_labels, "test")
        elif train_labels is not None or test_labels is not None:
            raise ValueError("labels were given, but num_classes is 0")

    def _checked(self, labels: Int[np.ndarray, " n"] | None, split: Split) -> Int[np.ndarray, " n"]:
        if labels is None or len(labels) != self.size(split):
            found = "none" if labels is None else len(labels)
            raise ValueError(f"{self.size(split)} {split} samples need as many labels, not {found}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"{split} labels must lie in 0..{self.num_classes - 1}")
        return labels.astype(np.int32)

    def size(self, split: Split) -> int:
        return len(self._samples[split])

    def read(
        self, split: Split, indices: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n *shape"], Int[np.ndarray, " n"] | None]:
        labels = self._labels[split][indices] if self.num_classes else None
        samples = self._samples[split][indices]
        return (from_uint8(samples) if samples.dtype == np.uint8 else samples), labels

    def labels(self, split: Split) -> Int[np.ndarray, " n"] | None:
        return self._labels.get(split)

    def statistics(self) -> Statistics:
        if self._statistics is None:
            running, train = RunningStatistics(self.shape[0]), self._samples["train"]
            running.update(train)
            self._statistics = running.result(
                *as_read("uint8" if train.dtype == np.uint8 else "float32")
            )
        return self._statistics

    def density(self) -> AbstractDensity | None:
        return self._density
