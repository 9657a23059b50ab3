"""Diversity of samples, as a multiple of that of real data."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot, itself
from scmkit_plugins.metrics._pairwise import pair_mean


@dataclass(frozen=True)
class Diversity(AbstractMetric):
    r"""$E\|X - X'\| / E\|Y - Y'\|$, the mean distance of two samples over that of two real vectors.

    1 is as diverse as real data, 0 all alike. Unbiased above and below the line at any number of samples. It
    tells nothing of quality: noise scores more than 1, which is no better than 1.
    """

    larger_is_better = True
    needs = "two samples, and real ones that differ"

    def applies(self, evaluation: Evaluation) -> bool:
        varied = bool((evaluation.reference != evaluation.reference[0]).any())
        return len(evaluation.samples) > 1 and varied

    def __call__(self, evaluation: Evaluation) -> float:
        return _spread(evaluation.samples) / _spread(evaluation.reference)


def _spread(vectors: Float[np.ndarray, "n d"]) -> float:
    """The mean distance of two different vectors."""
    n = len(vectors)
    return pair_mean(np.sqrt, vectors, vectors) * n / (n - 1)


plugin = Plugin(
    name="diversity",
    summary="mean distance of two samples over that of two real vectors (1: as diverse as real data)",
    provides={Slot.metric: itself},
    config=Diversity,
)
