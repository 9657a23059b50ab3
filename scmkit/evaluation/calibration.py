"""Rows of known corruptions of real data, which say what a metric's values mean in a space."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from scmkit.errors import UsageError
from scmkit.evaluation.real import RealData
from scmkit.evaluation.rows import Row
from scmkit.evaluation.spaces import Progress
from scmkit.evaluation.table import Table
from scmkit.interfaces import DataSpec

NOISES = (0.1, 0.3)
"""Standard deviations of noise that is added, in the data's own."""

BLURS = (0.5, 1.0)
"""Standard deviations of blurs, in pixels."""

REPEATED = 50
"""The number of samples that one row repeats, if there are twice as many."""


def calibration_rows(
    table: Table, real: RealData, data: DataSpec, rng: np.random.Generator, progress: Progress
) -> list[Row]:
    """A row for each corruption of real data of the split that samples are not held against.

    They are of as many samples as other rows and of their classes, or of all there are, if fewer. Raises
    `UsageError` where there is no other split.
    """
    if not real.has_other_split:
        raise UsageError(
            "calibration needs a train and a test split: what is corrupted is not what it is held against"
        )
    there = len(real.pool.indices)
    n = min(table.n, there)
    chosen = real.like_drawn(n, rng)
    samples, _ = real.dataset.read(real.pool.split, chosen)
    std = np.asarray(real.dataset.statistics().std, np.float32)
    comparisons = table.comparisons
    if n < table.n:
        # Resamples are of as many samples as other rows have.
        comparisons = [replace(comparison, indices=None) for comparison in comparisons]
    rows = []
    for name, corrupted in corruptions(samples, std, rng):
        progress(name, 0, n)
        found = data.clipped(corrupted)
        rows.append(table.row(name, [c(c.space(found)) for c in comparisons], nfe=None, n=n))
        progress(name, n, n)
    return rows


def corruptions(
    samples: Float[np.ndarray, "n channels *space"],
    std: Float[np.ndarray, " channels"],
    rng: np.random.Generator,
) -> Iterator[tuple[str, Float[np.ndarray, "n channels *space"]]]:
    """The name and the samples of each corruption; `std` is of the data. Blurs are of images only."""
    channelwise = (-1, *[1] * (samples.ndim - 2))
    for strength in NOISES:
        noise = rng.standard_normal(samples.shape, np.float32) * std.reshape(channelwise)
        yield f"real, noise of {strength:g} std", samples + np.float32(strength) * noise
    for sigma in BLURS if samples.ndim == 4 else ():
        yield f"real, blur of {sigma:g} px", blurred(samples, sigma)
    few = min(REPEATED, max(1, len(samples) // 2))
    yield f"{few} real samples repeated", np.resize(samples[:few], samples.shape)
    rest = (0, *range(2, samples.ndim))
    low, high = samples.min(rest, keepdims=True), samples.max(rest, keepdims=True)
    yield "uniform noise", low + (high - low) * rng.random(samples.shape, np.float32)


def blurred(images: Float[np.ndarray, "n c h w"], sigma: float) -> Float[np.ndarray, "n c h w"]:
    """Images under a Gaussian of `sigma` pixels; at an edge the weights within the image sum to one."""

    def weights(size: int) -> Float[np.ndarray, "size size"]:
        distance = np.subtract.outer(np.arange(size), np.arange(size)) / sigma
        kernel = np.exp(-0.5 * distance**2)
        return (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)

    rows, columns = (weights(size) for size in images.shape[2:])
    return rows @ images @ columns.T
