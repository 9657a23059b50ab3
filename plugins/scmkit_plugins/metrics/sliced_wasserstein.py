"""Sliced Wasserstein distance."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt
from jaxtyping import Float, Int

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot, itself

BLOCK = 1 << 19
"""Projections that are held at once, per set of vectors: 4 MiB in float64, or one direction's."""


@dataclass(frozen=True)
class SlicedWasserstein(AbstractMetric):
    r"""The mean over random directions of the 1-D Wasserstein-1 distance of the projections.

    In one dimension $W_1 = \int_0^1 |F_x^{-1}(u) - F_y^{-1}(u)|\, du$, which is a finite sum for samples, of
    equal number or not, and is computed as that. Directions are fixed by a seed (Bonneel et al., 2015,
    Section 3).
    """

    projections: Annotated[int, Gt(0)] = 256
    """Number of directions."""
    seed: int = 0
    """Seed of the directions."""

    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        return float(self.resampled(evaluation, np.arange(len(evaluation.samples))[None])[0])

    def resampled(
        self, evaluation: Evaluation, indices: Int[np.ndarray, "r n"]
    ) -> Float[np.ndarray, " r"]:
        x, y = evaluation.samples.astype(np.float64), evaluation.reference.astype(np.float64)
        directions = np.random.default_rng(self.seed).normal(size=(x.shape[1], self.projections))
        directions = (directions / np.linalg.norm(directions, axis=0)).T
        i, j, width = _steps(indices.shape[1], len(y))
        total, rows = np.zeros(len(indices)), max(1, BLOCK // (len(x) + len(y)))
        for start in range(0, self.projections, rows):
            some = directions[start : start + rows]
            projected, held = some @ x.T, np.sort(some @ y.T)[:, j]
            for r, chosen in enumerate(indices):
                total[r] += (np.abs(np.sort(projected[:, chosen])[:, i] - held) @ width).sum()
        return total / self.projections


def _steps(
    n: int, m: int
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Where the quantile functions of `n` and of `m` sorted values are both constant.

    On each interval: the index of the value of either, and the interval's width.
    """
    edges = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)  # in units of 1 / (n m)
    return edges[:-1] // m, edges[:-1] // n, np.diff(edges) / (n * m)


plugin = Plugin(
    name="sliced-wasserstein",
    summary="sliced Wasserstein-1 distance",
    provides={Slot.metric: itself},
    config=SlicedWasserstein,
)
