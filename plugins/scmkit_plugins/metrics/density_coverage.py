"""Density and coverage: precision and recall that outliers do not sway."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from scmkit.interfaces import Evaluation
from scmkit.plugin import Plugin, Slot, itself
from scmkit_plugins.metrics._manifold import AbstractManifoldMetric, memberships, radii
from scmkit_plugins.metrics._pairwise import nearest


@dataclass(frozen=True)
class Density(AbstractManifoldMetric):
    """In how many real vectors' reach a sample lies on average, over `k`: 1 for fresh real data.

    A vector's reach is the distance to its `k`-th nearest neighbour in its own set. More than 1 where samples
    crowd in the middle of the data (arXiv 2002.09797, Equation 3).
    """

    k: Annotated[int, Gt(0)] = 5

    def __call__(self, evaluation: Evaluation) -> float:
        counts = memberships(evaluation.samples, evaluation.reference, self.k)
        return float(counts.mean() / self.k)


@dataclass(frozen=True)
class Coverage(AbstractManifoldMetric):
    r"""The share of real vectors with a sample within their reach.

    For $n$ fresh real vectors against $m$ it is on average
    $1 - \prod_{i=0}^{k-1} (m - 1 - i) / (n + m - 1 - i)$, about $1 - 2^{-k}$ where $n = m$
    (arXiv 2002.09797, Equation 4 and Section 3.3).
    """

    k: Annotated[int, Gt(0)] = 5

    def __call__(self, evaluation: Evaluation) -> float:
        real = evaluation.reference
        return float((nearest(real, evaluation.samples) <= radii(real, self.k)).mean())


density = Plugin(
    name="density",
    summary="how densely real data surrounds the samples (larger is better; arXiv 2002.09797)",
    provides={Slot.metric: itself},
    config=Density,
)

coverage = Plugin(
    name="coverage",
    summary="share of real data with a sample within reach (larger is better; arXiv 2002.09797)",
    provides={Slot.metric: itself},
    config=Coverage,
)
