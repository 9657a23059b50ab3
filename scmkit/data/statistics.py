"""Mean and standard deviation per channel, in one pass and exact to float64."""

import numpy as np
from jaxtyping import Float, Shaped

from scmkit.interfaces import Statistics

_PIECE = 1 << 20


def constant_channels(statistics: Statistics) -> list[int]:
    """The channels that have one value everywhere, which no scale brings to a standard deviation."""
    pairs = zip(statistics.mean, statistics.std, strict=True)
    # A spread below float32's resolution at the mean is rounding, not data.
    return [i for i, (mean, std) in enumerate(pairs) if not std > 1e-7 * abs(mean)]


class RunningStatistics:
    r"""Accumulates the mean and the population standard deviation of each channel.

    Blocks are merged by $M_2 = M_2^a + M_2^b + \delta^2 n_a n_b / n$ (Chan, Golub and LeVeque,
    1979), which does not cancel as the sum of squares does.
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)

    def update(self, samples: Shaped[np.ndarray, "n channels *space"]) -> None:
        """Adds a block of samples, of any real dtype."""
        rows = max(1, _PIECE // max(1, samples[0].size)) if len(samples) else 1
        for start in range(0, len(samples), rows):
            piece = np.asarray(samples[start : start + rows], np.float64)
            piece = np.moveaxis(piece, 1, 0).reshape(len(self._mean), -1)
            self._merge(piece)

    def _merge(self, piece: Float[np.ndarray, "channels m"]) -> None:
        added = piece.shape[1]
        mean = piece.mean(axis=1)
        delta = mean - self._mean
        total = self._count + added
        self._squares += ((piece - mean[:, None]) ** 2).sum(axis=1)
        self._squares += delta**2 * (self._count * added / total)
        self._mean += delta * (added / total)
        self._count = total

    def result(self, scale: float = 1.0, shift: float = 0.0) -> Statistics:
        """The statistics of `scale * samples + shift`."""
        std = np.sqrt(self._squares / max(1, self._count))
        return Statistics(
            mean=tuple((scale * self._mean + shift).tolist()), std=tuple((scale * std).tolist())
        )
