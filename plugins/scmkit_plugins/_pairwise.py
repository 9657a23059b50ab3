"""All pairs of two sets of vectors, a block of rows at a time."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

BLOCK = 1 << 22
"""Pairs per block: 32 MiB in float64, whatever the number of vectors."""


def products(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> Iterator[Float[np.ndarray, "rows m"]]:
    """Inner products of the rows of `a`, in order, with all of `b`, in float64."""
    across = b.astype(np.float64).T
    rows = max(1, BLOCK // len(b))
    for start in range(0, len(a), rows):
        yield a[start : start + rows].astype(np.float64) @ across


def squared_distances(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]
) -> Iterator[Float[np.ndarray, "rows m"]]:
    """Squared Euclidean distances of the rows of `a`, in order, to all of `b`, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    # |a|^2 + |b|^2 - 2 a.b as one product.
    left = np.c_[-2 * a, (a**2).sum(1), np.ones(len(a))]
    right = np.c_[b, np.ones(len(b)), (b**2).sum(1)]
    for block in products(left, right):
        yield np.maximum(block, 0, out=block)


def pair_mean(
    function: Callable[[Float[np.ndarray, "rows m"]], Float[np.ndarray, "rows m"]],
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
) -> float:
    """The mean over all pairs of a function of the squared distance."""
    total = sum(float(function(block).sum()) for block in squared_distances(a, b))
    return total / (len(a) * len(b))


def nearest(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], k: int = 1
) -> Float[np.ndarray, " n"]:
    """The squared distance of each of `a` to the `k`-th nearest of `b`."""
    blocks = squared_distances(a, b)
    return np.concatenate([np.partition(block, k - 1)[:, k - 1] for block in blocks])
