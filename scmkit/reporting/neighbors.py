"""Nearest training neighbors: does a model copy?"""

import numpy as np
from jaxtyping import Float, Int

from scmkit.interfaces import AbstractDataset

SEARCHED, CHUNK = 20_000, 2_000
"""Training samples that are searched at the most, and read at once."""


def nearest(
    samples: Float[np.ndarray, "n *shape"], dataset: AbstractDataset, *, seed: int = 0
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The training sample closest to each sample, by index, and its distance.

    The distance is Euclidean in data space, per value (RMS). Of more than `SEARCHED` training samples that
    many are searched.
    """
    size = dataset.size("train")
    pool = np.arange(size)
    if size > SEARCHED:
        pool = np.sort(np.random.default_rng(seed).choice(size, SEARCHED, replace=False))
    flat = samples.reshape(len(samples), -1).astype(np.float64)
    best = np.full(len(flat), np.inf)
    index = np.zeros(len(flat), np.int64)
    for start in range(0, len(pool), CHUNK):
        some = pool[start : start + CHUNK]
        train = dataset.read("train", some)[0].reshape(len(some), -1).astype(np.float64)
        squared = (flat**2).sum(1)[:, None] - 2 * flat @ train.T + (train**2).sum(1)[None]
        closest = squared.argmin(1)
        # The expansion loses digits where the two are close: the winner's distance is computed plainly.
        distance = np.sqrt(((flat - train[closest]) ** 2).mean(1))
        better = distance < best
        best, index = np.where(better, distance, best), np.where(better, some[closest], index)
    return index, best
