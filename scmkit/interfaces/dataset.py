"""Data sets."""

import abc
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from scmkit.interfaces.density import AbstractDensity

Split = Literal["train", "test"]
Values = TypeVar("Values", np.ndarray, Array)


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training split, one value per channel (the leading axis)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class AbstractDataset(abc.ABC):
    """A data set with a train and a test split, read by index.

    Samples come in the data's own units: images as float32 `c h w` in [-1, 1], vectors as they are.
    """

    shape: tuple[int, ...]
    """Shape of one sample."""
    num_classes: int
    """Number of classes; 0 where samples have no label."""
    levels: int = 0
    """How many equally spaced values from -1 to 1 images are made of (256 for 8 bits); 0 if continuous."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, in the order of their indices; empty where they have none."""
    licences: tuple[str, ...] = ()
    """Whose the samples are and under which licence, a line for each origin; empty where nobody says."""
    paired: bool = False
    """Whether every training sample has a noise of its own, which `noise` reads."""
    times: tuple[float, ...] = ()
    """Noise-to-signal ratios, descending, of the states that are stored from each noise to its sample."""

    @abc.abstractmethod
    def size(self, split: Split) -> int:
        """The number of samples in a split."""

    @abc.abstractmethod
    def read(
        self, split: Split, indices: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n *shape"], Int[np.ndarray, " n"] | None]:
        """The samples at `indices` as float32, and their labels as int32 (None without classes)."""

    def labels(self, split: Split) -> Int[np.ndarray, " n"] | None:
        """The labels of a whole split (None without classes); override it where samples need not be read."""
        if not self.num_classes:
            return None
        parts = []
        for start in range(0, self.size(split), 4096):
            _, some = self.read(split, np.arange(start, min(start + 4096, self.size(split))))
            parts.append(some)
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def noise(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n *shape"]:
        """The noise of the training samples at `indices`, N(0, I) as float32; for data that is `paired`."""
        raise NotImplementedError(f"{type(self).__name__} has no noise stored with its samples")

    def states(self, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n times *shape"]:
        """The states of the training samples at `indices`, at the data's `times`, as float32.

        Each is divided by its process's `alpha`, and in the data's units, as samples are.
        """
        raise NotImplementedError(f"{type(self).__name__} has no states stored with its samples")

    @abc.abstractmethod
    def statistics(self) -> Statistics:
        """The mean and standard deviation of the training split, by which data is normalized."""

    @abc.abstractmethod
    def density(self) -> AbstractDensity | None:
        """The density the data was drawn from, where it is known in closed form."""


@dataclass(frozen=True)
class SplitDigest:
    """The size of a split, and SHA-256 of its samples (float32, as they are read) and labels (int32).

    Of paired data each sample is followed by its noise, and by the states from there to it.
    """

    size: int
    samples: str
    labels: str


@dataclass(frozen=True)
class DataDigest:
    """Digests by which a data set is recognized."""

    train: SplitDigest
    test: SplitDigest
    class_names: tuple[str, ...] = ()

    @property
    def hex(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def differences(self, before: "DataDigest") -> Iterator[str]:
        """The differences of this data from what it was before, in words."""
        if self.class_names != before.class_names:
            yield f"its classes are {_listed(self.class_names)}, not {_listed(before.class_names)}"
        for split in ("train", "test"):
            now, then = getattr(self, split), getattr(before, split)
            if now.size != then.size:
                yield f"its {split} split has {now.size} samples, not {then.size}"
                continue
            for part in ("samples", "labels"):
                if getattr(now, part) != getattr(then, part):
                    yield f"the {part} of its {split} split are others"


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"'{shown}'" if names else "without names"


@dataclass(frozen=True)
class DataSpec:
    r"""The facts about the data that a model needs; they are kept in the recipe.

    The model sees $x = (raw - shift) \cdot scale$ per channel, of standard deviation `sigma_data`.
    """

    source: str
    shape: tuple[int, ...]
    num_classes: int
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    sigma_data: float = 0.5
    clip: bool = True
    """Whether samples of rank 3 are images in [-1, 1]; latents are not."""
    digest: DataDigest | None = None
    """The digest by which the data is recognized; None where it was never computed."""
    class_names: tuple[str, ...] = ()
    """Names of the classes; empty where they have none, or none are known."""
    paired: bool = False
    """Whether every training sample has a noise of its own, for a coupling to give it."""
    times: tuple[float, ...] = ()
    """Noise-to-signal ratios, descending, of the states stored from each noise to its sample."""

    def __post_init__(self) -> None:
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")

    def _channelwise(self, values: tuple[float, ...]) -> Shaped[np.ndarray, "..."]:
        return np.asarray(values, np.float32).reshape(-1, *[1] * (len(self.shape) - 1))

    def normalize(self, raw: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n *shape"]:
        """From the data's units to the model's."""
        return (raw - self._channelwise(self.shift)) * self._channelwise(self.scale)

    def denormalize(self, x: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n *shape"]:
        """From the model's units back to the data's; images are clipped to [-1, 1]."""
        return self.clipped(self.unscaled(x))

    def unscaled(self, x: Values) -> Values:
        """The inverse of `normalize`, without clipping; of one sample or several, of NumPy's or JAX's."""
        return x / self._channelwise(self.scale) + self._channelwise(self.shift)

    def clipped(self, raw: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n *shape"]:
        """Images clipped to [-1, 1]; other data as it is."""
        return np.clip(raw, -1.0, 1.0) if len(self.shape) == 3 and self.clip else raw
