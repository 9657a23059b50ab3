"""The metrics and the space that are used where nobody names any."""

from collections.abc import Mapping, Sequence
from typing import Any

from scmkit.composing.build import build_free
from scmkit.composing.entries import entries
from scmkit.errors import UsageError
from scmkit.evaluation.spaces import DATA
from scmkit.interfaces import AbstractDataset, AbstractMetric, Split
from scmkit.plugin import Slot

METRICS = ("energy-distance", "sliced-wasserstein", "mmd", "near-copies", "exact-map")
"""The metrics of data space where none is named."""

FEATURE_METRICS = ("frechet-distance", "precision", "recall", "coverage", "classifier-score")
"""The metrics of a feature space where none is named, as far as they are installed."""

DEFAULT_METRICS = {
    DATA: METRICS,
    "inception": ("fid", "kid", "inception-score", "precision", "recall", "coverage"),
}
"""The metrics where none is named, by space; other spaces have `FEATURE_METRICS`."""

CLASSIFIER = "classifier"
"""The features plugin in whose space images with classes are compared."""


def usual_features(dataset: AbstractDataset) -> str:
    """`"classifier"` for images with classes, if it is installed; otherwise `"data"`.

    In pixels a Gaussian fit does well, though its samples look like none of the data. Vectors are compared
    as they are: features that tell classes apart leave out how the vectors of one class lie.
    """
    images = len(dataset.shape) == 3 and dataset.num_classes > 1
    return CLASSIFIER if images and CLASSIFIER in _installed() else DATA


def usual_metrics(space: str) -> Sequence[str]:
    """The metrics of a space where nobody named any, as far as they are installed."""
    installed = _installed()
    return [m for m in DEFAULT_METRICS.get(space, FEATURE_METRICS) if m in installed]


def _installed() -> set[str]:
    return {entry.name for entry in entries()}


def measures_of(
    names: Sequence[str], split: Split, options: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, AbstractMetric], dict[str, str]]:
    """The metrics by name, and for those that are left out the reason: they look for training data, and the
    reference is training data.

    Raises `UsageError` where none is left.
    """
    built = {name: build_free(Slot.metric, name, options.get(name, {})) for name in names}
    out = [k for k, m in built.items() if split == "train" and m.finds_training_data]
    why = "it looks for training data, which the samples are held against"
    if len(out) == len(built):
        raise UsageError(f"metric '{', '.join(out)}' with --split train: {why}; choose another")
    return {k: m for k, m in built.items() if k not in out}, dict.fromkeys(out, why)


def reason(metric: AbstractMetric) -> str:
    """The reason why a metric has no value where it does not apply."""
    return f"it needs {metric.needs}" if metric.needs else "it does not apply"
