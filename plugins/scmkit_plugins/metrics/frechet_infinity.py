"""The Fréchet distance of infinitely many samples, by a line in 1/n; of Inception's features FID-infinity."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from jaxtyping import Float

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot, itself
from scmkit_plugins.metrics.frechet_distance import frechet_distance


@dataclass(frozen=True)
class FrechetDistanceInfinity(AbstractMetric):
    r"""The intercept of a line in $1/k$ through Fréchet distances of $k$ samples (arXiv 1911.07023).

    The distance is biased upwards by about $1/n$. The paper draws $k$ of the samples, and leaves the
    reference, which is large there, whole; here both sides shrink in one proportion, so that the bias of
    either is extrapolated. The line is closest in squares. Samples as good as real data are about 0, which
    they may be below. Where there are fewer samples than dimensions
    the bias is on no line.
    """

    least: Annotated[float, Gt(0), Lt(1)] = 0.25
    """The smallest share of the samples that the line passes through."""
    sizes: Annotated[int, Ge(2), Le(1000)] = 5
    """Shares on the line; their inverses are equally far apart, from 1 to that of the smallest."""
    draws: Annotated[int, Ge(1), Le(1000)] = 4
    """Subsets of each share, apart from the whole."""

    needs = "more samples, and real ones: two in its smallest share"

    def applies(self, evaluation: Evaluation) -> bool:
        fewest = min(len(evaluation.samples), len(evaluation.reference))
        return round(self.least * fewest) > 1

    def __call__(self, evaluation: Evaluation) -> float:
        inverses = np.linspace(1, 1 / self.least, self.sizes)
        return intercept(inverses, np.asarray([self._at(evaluation, 1 / i) for i in inverses]))

    def _at(self, evaluation: Evaluation, share: float) -> float:
        """The mean distance of subsets with a share of both sides."""
        samples, reference = evaluation.samples, evaluation.reference
        if share == 1:
            return frechet_distance(samples, reference)
        found = []
        for draw in range(self.draws):
            # One seed for both: labels of samples are those of the reference in its order, and so classes
            # are as balanced in a pair of subsets as in the whole.
            x, y = (
                some[np.random.default_rng(draw).permutation(len(some))[: round(share * len(some))]]
                for some in (samples, reference)
            )
            found.append(frechet_distance(x, y))
        return float(np.mean(found))


def intercept(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """The value at 0 of the line that is closest in squares."""
    centered = x - x.mean()
    return float(y.mean() - x.mean() * (centered @ y) / (centered @ centered))


plugin = Plugin(
    name="frechet-distance-infinity",
    summary="frechet-distance of infinitely many samples, by a line in 1/n (arXiv 1911.07023)",
    provides={Slot.metric: itself},
    config=FrechetDistanceInfinity,
)
