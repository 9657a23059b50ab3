"""All pairs of two sets of vectors, a block of rows at a time."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

BLOCK = 1 << 22
"""Pairs per block: 32 MiB in float64, whatever the number of vectors."""

PairFunction = Callable[[Float[np.ndarray, "rows m"]], Float[np.ndarray, "rows m"]]


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
    function: PairFunction,
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
) -> float:
    """The mean over all pairs of a function of the squared distance."""
    total = sum(float(function(block).sum()) for block in squared_distances(a, b))
    return total / (len(a) * len(b))


def weighted_pair_sums(
    function: PairFunction,
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
    left: Float[np.ndarray, "r n"],
    right: Float[np.ndarray, "#r m"],
) -> Float[np.ndarray, " r"]:
    """Sums over all pairs of a function of the squared distance, with weights `left` times `right`."""
    total, start = np.zeros(len(left)), 0
    for block in squared_distances(a, b):
        rows = left[:, start : start + len(block)]
        total += ((rows @ function(block)) * right).sum(1)
        start += len(block)
    return total


def shares(indices: Int[np.ndarray, "r k"], n: int) -> Float[np.ndarray, "r n"]:
    """The share of each of `n` samples in each row of indices: weights whose sums are means."""
    counts = [np.bincount(row, minlength=n) for row in indices]
    return np.stack(counts) / indices.shape[1]


def nearest(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], k: int = 1
) -> Float[np.ndarray, " n"]:
    """The squared distance of each of `a` to the `k`-th nearest of `b`."""
    blocks = squared_distances(a, b)
    return np.concatenate([np.partition(block, k - 1)[:, k - 1] for block in blocks])
