"""Features of a small classifier that is trained, once, on the data set itself."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Array, Float

from scmkit.data import spec_of
from scmkit.data.derived import digest, digest_arrays, keep, recall
from scmkit.errors import DataError
from scmkit.interfaces import AbstractDataset, AbstractFeatures, DataSpec, Features
from scmkit.plugin import Plugin, Slot
from scmkit.settings import TrainingSettings
from scmkit.training.progress import Bar
from scmkit_plugins.features._small_classifier import SmallClassifier, train

RECIPE = "1"
"""Raised when the same options train another network."""

_ACCURACY = "test accuracy"


@dataclass(frozen=True)
class Options:
    """Options of the classifier."""

    steps: Annotated[int, Gt(0)] = 1000
    """Optimizer steps."""
    batch_size: Annotated[int, Gt(0)] = 128
    """Samples per optimizer step."""
    lr: Annotated[float, Gt(0)] = 3e-3
    """Peak learning rate."""
    width: Annotated[int, Ge(1)] = 16
    """Channels of the first convolution."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of weights and order."""


class ClassifierFeatures(AbstractFeatures):
    """Activations of the last hidden layer, 64 of them, and class probabilities."""

    def __init__(
        self, network: SmallClassifier, spec: DataSpec, accuracy: np.ndarray | None
    ) -> None:
        self._network = network
        self._spec = spec
        # The normalisation is part of the map, too.
        told = {"shift": np.asarray(spec.shift), "scale": np.asarray(spec.scale)}
        self.digest = digest_arrays({**_arrays(network), **told})
        self.facts = {} if accuracy is None else {_ACCURACY: float(accuracy)}

    def __call__(self, samples: Float[np.ndarray, "n *shape"]) -> Features:
        x = np.asarray(self._spec.normalize(samples), np.float32)
        features, probabilities = _apply(self._network, jnp.asarray(x))
        return Features(np.asarray(features), np.asarray(probabilities))


@eqx.filter_jit
def _apply(
    network: SmallClassifier, x: Float[Array, "n *shape"]
) -> tuple[Float[Array, "n d"], Float[Array, "n k"]]:
    features, logits = jax.vmap(network)(x)
    return features, jax.nn.softmax(logits)


def _accuracy(features: ClassifierFeatures, dataset: AbstractDataset) -> np.ndarray | None:
    """The share of the test split that is classified as its labels say."""
    size, right = dataset.size("test"), 0
    for start in range(0, size, 500):
        samples, labels = dataset.read("test", np.arange(start, min(start + 500, size)))
        probabilities = features(samples).probabilities
        assert probabilities is not None
        right += int((probabilities.argmax(1) == labels).sum())
    return np.asarray(right / size) if size else None


def _arrays(network: SmallClassifier) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_array))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def build(config: Options, dataset: AbstractDataset, directory: Path) -> ClassifierFeatures:
    """The classifier of a data set, trained unless `directory` has it.

    Raises `DataError` for data without classes.
    """
    if dataset.num_classes < 2:
        raise DataError(
            "features 'classifier': the data has no classes to tell apart; import it with labels, or "
            "choose other --features"
        )
    spec = spec_of(dataset, "classifier", sigma_data=1.0)
    network = SmallClassifier(
        dataset.shape, dataset.num_classes, config.width, key=jr.key(config.seed)
    )
    about = {
        "data": digest(dataset),
        "options": json.dumps(dataclasses.asdict(config)),
        "recipe": RECIPE,
    }
    if (known := recall(directory, "classifier", about)) is not None:
        accuracy = known.pop(_ACCURACY, None)
        found = jax.tree_util.tree_map_with_path(
            lambda path, _: known[jax.tree_util.keystr(path)], eqx.filter(network, eqx.is_array)
        )
        return ClassifierFeatures(eqx.combine(found, network), spec, accuracy)
    Bar().message(f"training the classifier of this data set, once; it is kept in '{directory}'")
    settings = TrainingSettings(
        steps=config.steps,
        batch_size=config.batch_size,
        seed=config.seed,
        lr=config.lr,
        warmup=config.steps // 10,
        schedule="cosine",
        beta2=0.999,
    )
    network = train(network, dataset, spec, settings)
    accuracy = _accuracy(ClassifierFeatures(network, spec, None), dataset)
    told = {} if accuracy is None else {_ACCURACY: accuracy}
    keep(directory, "classifier", about, {**_arrays(network), **told})
    return ClassifierFeatures(network, spec, accuracy)


plugin = Plugin(
    name="classifier",
    summary="features of a small classifier that is trained on the data set itself, once",
    provides={Slot.features: build},
    config=Options,
)
