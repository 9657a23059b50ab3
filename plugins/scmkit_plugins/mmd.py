"""Maximum mean discrepancy."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt
from jaxtyping import Float

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot
from scmkit_plugins._pairwise import pair_mean, squared_distances

SUBSET = 2000
"""Vectors of the reference whose distances the median is taken of, at most."""


class MMD(AbstractMetric):
    r"""$\sqrt{E\,k(X,X') + E\,k(Y,Y') - 2 E\,k(X,Y)}$, Gaussian kernel, as a V-statistic.

    The bandwidth is `scale` times the median distance within the reference (Gretton et al., 2012,
    Equation 5 and Section 8).
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        x, y = evaluation.samples, evaluation.reference
        some = np.random.default_rng(0).permutation(len(y))[:SUBSET]
        within = np.concatenate(list(squared_distances(y[some], y[some])))
        bandwidth = self.scale**2 * np.median(within[~np.eye(len(some), dtype=bool)])

        def kernel(square: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
            return np.exp(-square / (2 * bandwidth))

        across, *within = (pair_mean(kernel, a, b) for a, b in ((x, y), (x, x), (y, y)))
        return float(np.sqrt(max(sum(within) - 2 * across, 0.0)))


@dataclass(frozen=True)
class Options:
    """Options of the maximum mean discrepancy."""

    scale: Annotated[float, Gt(0)] = 1.0
    """Kernel bandwidth, in median distances of the reference."""


def build(config: Options) -> MMD:
    return MMD(config.scale)


plugin = Plugin(
    name="mmd",
    summary="maximum mean discrepancy, Gaussian kernel",
    provides={Slot.metric: build},
    config=Options,
)
