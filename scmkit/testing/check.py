"""Conformance checks, and how they fail."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import ArrayLike


@dataclass(frozen=True)
class Check:
    """One conformance check; `run()` raises `AssertionError` with a sentence where it fails."""

    name: str
    run: Callable[[], None]


def require(condition: object, sentence: str) -> None:
    """Raises `AssertionError(sentence)` unless `condition` holds."""
    if not condition:
        raise AssertionError(sentence)


def require_finite(values: ArrayLike, what: str) -> None:
    """Raises `AssertionError` if any of `values` is NaN or infinite."""
    values = np.asarray(values, np.float64)
    bad = values.size - int(np.isfinite(values).sum())
    require(not bad, f"{what} has {bad} of {values.size} values that are not finite")


def require_close(
    actual: ArrayLike, expected: ArrayLike, what: str, *, tolerance: float = 1e-3
) -> None:
    """Raises `AssertionError` unless the largest difference is below `tolerance` of the largest value.

    Normwise, because single entries near 0 carry the rounding of their neighbors.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    require(
        actual.shape == expected.shape, f"{what} has shape {actual.shape}, not {expected.shape}"
    )
    require_finite(actual, what)
    if not actual.size:
        return
    error = np.abs(actual - expected).max()
    scale = max(np.abs(expected).max(), np.finfo(np.float32).tiny)
    require(
        error <= tolerance * scale,
        f"{what} is off by {error / scale:.2g} of its size, more than {tolerance:g} "
        f"(first value {actual.ravel()[0]:.6g}, expected {expected.ravel()[0]:.6g})",
    )
