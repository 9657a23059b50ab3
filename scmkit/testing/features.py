"""Checks of features, on a small data set of two classes."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from scmkit.data import ArrayDataset
from scmkit.interfaces import AbstractFeatures, Features
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.workbench import Bench, Case


@dataclass(frozen=True)
class Extractor:
    """Features, the same built again in the same directory, and samples in the data's units."""

    features: AbstractFeatures
    again: AbstractFeatures
    samples: Float[np.ndarray, "n *shape"]


def vectors_are_float32(given: Extractor) -> None:
    found, n = given.features(given.samples), len(given.samples)
    require(
        isinstance(found, Features), f"a call must return Features, not a {type(found).__name__}"
    )
    vectors = found.vectors
    shaped = isinstance(vectors, np.ndarray) and vectors.ndim == 2 and len(vectors) == n
    require(
        shaped and vectors.dtype == np.float32,
        f"vectors of {n} samples must be a float32 numpy array (n, d), not "
        f"{getattr(vectors, 'dtype', type(vectors))} of shape {np.shape(vectors)}",
    )
    require_finite(vectors, "the vectors")
    require(vectors.std(0).max() > 0, "all samples have the same vector")


def probabilities_are_probabilities(given: Extractor) -> None:
    found = given.features(given.samples).probabilities
    if found is None:
        return
    n = len(given.samples)
    require(
        found.shape == (n, found.shape[-1]) and found.dtype == np.float32,
        f"probabilities must be float32 (n, k), not {found.dtype} of shape {found.shape}",
    )
    require(found.min() >= 0, f"a probability is {found.min():g}")
    require_close(found.sum(1), np.ones(n), "the sum of probabilities", tolerance=1e-4)


def calls_are_deterministic(given: Extractor) -> None:
    first, second = (given.features(given.samples).vectors for _ in range(2))
    require((first == second).all(), "two calls on the same samples give different vectors")


def a_batch_equals_its_parts(given: Extractor) -> None:
    whole, x = given.features(given.samples), given.samples
    parts = [given.features(x[:3]), given.features(x[3:])]
    for name in ("vectors", "probabilities"):
        if getattr(whole, name) is not None:
            apart = np.concatenate([getattr(part, name) for part in parts])
            require_close(apart, getattr(whole, name), f"{name} of a batch's parts", tolerance=1e-4)


def the_digest_is_of_the_map(given: Extractor) -> None:
    digest = given.features.digest
    require(
        isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{16,}", digest),
        f"digest must be 16 hex digits or more, not {digest!r}",
    )
    again = given.again
    require(again.digest == digest, "features that are built again have another digest")
    same = given.features(given.samples).vectors == again(given.samples).vectors
    require(same.all(), "features that are built again have the same digest and other vectors")


def facts_can_be_printed(given: Extractor) -> None:
    for name, value in given.features.facts.items():
        require(
            isinstance(name, str) and type(value) in (str, int, float),
            f"facts are numbers or strings by name, not {name!r}: {value!r}",
        )


def the_input_is_left_alone(given: Extractor) -> None:
    before = given.samples.copy()
    given.features(given.samples)
    require(np.array_equal(given.samples, before), "the samples were modified")


def arrange(bench: Bench) -> Extractor:
    dataset = _dataset(bench.case.shape)
    with tempfile.TemporaryDirectory() as directory:
        one, other = (bench.build_free(Slot.features, dataset, Path(directory)) for _ in range(2))
    return Extractor(one, other, dataset.read("test", np.arange(8))[0])


def _dataset(shape: tuple[int, ...]) -> ArrayDataset:
    """Noise around -1/2 in one class and 1/2 in the other, within [-1, 1]."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=(2, 64)).astype(np.int32)
    centers = labels.reshape(2, 64, *[1] * len(shape)) - 0.5
    samples = centers + rng.uniform(-0.5, 0.5, size=(2, 64, *shape))
    train, test = samples.astype(np.float32)
    return ArrayDataset(train, test, train_labels=labels[0], test_labels=labels[1], num_classes=2)


FAMILY = Family(
    arrange,
    (
        vectors_are_float32,
        probabilities_are_probabilities,
        calls_are_deterministic,
        a_batch_equals_its_parts,
        the_digest_is_of_the_map,
        facts_can_be_printed,
        the_input_is_left_alone,
    ),
    (Case("image", shape=(3, 16, 16)),),
)
