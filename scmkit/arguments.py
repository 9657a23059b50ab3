"""What is passed in Python, within the same bounds as the command line's options."""

import math
from numbers import Integral

import numpy as np
from jaxtyping import Float, Int, Shaped

from scmkit.bounds import LARGEST, LAST_SEED
from scmkit.errors import UsageError
from scmkit.interfaces import DataSpec


def as_count(given: object, what: str, *, least: int = 1) -> int:
    """A whole number from `least` to 2**31 - 1; raises `UsageError` that names `what` it counts."""
    number = _whole(given)
    if number is None or not least <= number <= LARGEST:
        raise UsageError(f"{what} {given!r}: give a whole number from {least} to {LARGEST}")
    return number


def as_seed(given: object) -> int:
    """A seed, from 0 to 2**32 - 1; raises `UsageError`."""
    number = _whole(given)
    if number is None or not 0 <= number <= LAST_SEED:
        raise UsageError(f"seed {given!r}: give a whole number from 0 to {LAST_SEED}")
    return number


def as_strength(given: float) -> float:
    """A guidance strength, finite and at least 0; raises `UsageError`."""
    if not (math.isfinite(given) and given >= 0):
        raise UsageError(f"guidance {given}: give a finite strength of at least 0; 1 is none")
    return given


def as_labels(given: object, data: DataSpec, n: int) -> Int[np.ndarray, " {n}"]:
    """Classes of `n` samples, from one for all or one for each.

    Raises `UsageError` for another number of them, and for what is no class of the data.
    """
    labels = _array(given, "labels")
    if not data.num_classes:
        raise UsageError(f"class {_quoted(labels)}: this data has no classes")
    if labels.shape not in ((), (n,)):
        raise UsageError(
            f"labels of shape {labels.shape}: give one class for all, or one for each of {n} samples"
        )
    good = np.zeros(labels.shape, bool)
    if labels.dtype.kind in "iuf":
        good = (labels == np.floor(labels)) & (labels >= 0) & (labels < data.num_classes)
    if not good.all():
        wrong = _quoted(labels[~good])
        raise UsageError(f"class {wrong}: this data has classes 0 to {data.num_classes - 1}")
    return np.broadcast_to(labels.astype(np.int32), (n,))


def as_samples(given: object, data: DataSpec) -> Float[np.ndarray, "n *shape"]:
    """Samples in the data's units, as float32; raises `UsageError` for another shape and for NaN."""
    samples = _array(given, "samples")
    if samples.dtype.kind not in "iuf":
        raise UsageError(f"samples of {samples.dtype}: give numbers")
    samples = samples.astype(np.float32, copy=False)
    if not samples.ndim or samples.shape[1:] != data.shape or not len(samples):
        raise UsageError(f"samples of shape {samples.shape}: give (n, *{data.shape}), at least one")
    if not np.isfinite(samples).all():
        raise UsageError("samples: some values are not finite")
    return samples


def _whole(given: object) -> int | None:
    return int(given) if isinstance(given, Integral) and not isinstance(given, bool) else None


def _array(given: object, what: str) -> Shaped[np.ndarray, "..."]:
    try:
        return np.asarray(given)
    except ValueError:
        raise UsageError(f"{what}: rows of different lengths are no array") from None


def _quoted(labels: np.ndarray) -> str:
    return ", ".join(map(str, labels.ravel()[:3])) + (", ..." if labels.size > 3 else "")
