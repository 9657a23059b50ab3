"""The spaces in which samples are compared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from scmkit.composing.conformity import expect_array, expect_kind
from scmkit.data.derived import digest_arrays, keep, recall
from scmkit.distribution.spread import shared_out
from scmkit.interfaces import AbstractDataset, AbstractFeatures, AbstractMetric, Features, Split

DATA = "data"
"""The name of the data's own space."""

BATCH = 256
"""The most samples that features are asked for at once."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the work, the number of samples it has done, and their number in all."""


@dataclass(frozen=True)
class Selection:
    """Some samples of a split, by index."""

    split: Split
    indices: Int[np.ndarray, " n"]

    def blocks(
        self, dataset: AbstractDataset
    ) -> Iterator[tuple[Float[np.ndarray, "b *shape"], Int[np.ndarray, " b"] | None]]:
        """Samples and labels, `BATCH` at a time."""
        for start in range(0, len(self.indices), BATCH):
            yield dataset.read(self.split, self.indices[start : start + BATCH])


@dataclass(frozen=True)
class Space:
    """Samples as vectors: flattened where `features` is None, else `batch` at a time their features.

    `metrics` are those computed here.
    """

    name: str
    metrics: Mapping[str, AbstractMetric]
    features: AbstractFeatures | None
    batch: int

    def __call__(
        self, samples: Float[np.ndarray, "n *shape"], *, together: bool = False
    ) -> Features:
        """The vectors of samples in the data's units.

        `together` says that all processes, if there are several, ask for those of the same samples now: each
        computes a part of them.
        """
        if self.features is None:
            return Features(samples.reshape(len(samples), -1))
        features, n, size = self.features, len(samples), self.batch

        def block(number: int) -> tuple[Any, Any]:
            some = samples[number * size : (number + 1) * size]
            # All of one shape, for which the features are compiled once.
            missing = np.repeat(some[:1], size - len(some), axis=0)
            found = features(np.concatenate([some, missing]))
            expect_kind(features, "features", found, Features)
            expect_array(features, "features", found.vectors, (size, "d"), np.float32)
            if (classes := found.probabilities) is not None:
                expect_array(features, "features", classes, (size, "c"), np.float32)
            return found.vectors, found.probabilities

        blocks = range(-(-n // size))
        found = shared_out(block, len(blocks)) if together else map(block, blocks)
        return taken(joined([Features(*one) for one in found]), np.arange(n))

    def of_real(
        self,
        dataset: AbstractDataset,
        selection: Selection,
        where: tuple[Path, str] | None,
        progress: Progress,
    ) -> Features:
        """The vectors of real samples; features are kept.

        `where` is a directory, and the digest of the data set.
        """
        if self.features is None or where is None:
            return self(dataset.read(selection.split, selection.indices)[0])
        directory, data = where
        about = {
            "data": data,
            "features": self.features.digest,
            "split": selection.split,
            "selection": digest_arrays({"indices": selection.indices}),
        }
        if (known := recall(directory, "features", about)) is not None:
            return Features(known["vectors"], known.get("probabilities"))
        parts, what, n = [], f"{self.name} features of {selection.split}", len(selection.indices)
        for samples, _ in selection.blocks(dataset):
            parts.append(self(samples))
            progress(what, min(len(parts) * BATCH, n), n)
        found = joined(parts)
        arrays = {"vectors": found.vectors, "probabilities": found.probabilities}
        keep(directory, "features", about, {k: v for k, v in arrays.items() if v is not None})
        return found


def taken(found: Features, indices: Int[np.ndarray, " n"]) -> Features:
    """Features at `indices`."""
    classes = found.probabilities
    return Features(found.vectors[indices], None if classes is None else classes[indices])


def joined(parts: Sequence[Features]) -> Features:
    """Features one after another."""
    classes = [p.probabilities for p in parts if p.probabilities is not None]
    vectors = np.concatenate([p.vectors for p in parts])
    return Features(vectors, np.concatenate(classes) if classes else None)
