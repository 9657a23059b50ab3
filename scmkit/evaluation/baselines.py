"""Baselines beside generated samples: some real data, and draws from a Gaussian fit."""

import numpy as np
from jaxtyping import Float, Int

_EIGENVECTORS = 4096
"""Dimensions up to which a covariance matrix is decomposed."""


def subset(rng: np.random.Generator, size: int, limit: int) -> Int[np.ndarray, " k"]:
    """All of `size` indices, or `limit` random ones in order."""
    return np.arange(size) if size <= limit else np.sort(rng.permutation(size)[:limit])


def gaussian(
    rng: np.random.Generator, data: Float[np.ndarray, "k d"], n: int
) -> Float[np.ndarray, "n d"]:
    """Draws of a Gaussian with the mean and covariance of `data`."""
    mean, d = data.mean(0), data.shape[1]
    if d > _EIGENVECTORS:
        # sum_i a_i (x_i - mean) / sqrt(k - 1), a ~ N(0, I), has that covariance and needs no d x d matrix.
        weights = rng.normal(size=(n, len(data))) / np.sqrt(max(len(data) - 1, 1))
        return mean + weights.astype(np.float32) @ (data - mean)
    covariance = np.cov(data, rowvar=False).reshape(d, -1)
    return rng.multivariate_normal(mean, covariance, size=n, method="eigh").astype(np.float32)
