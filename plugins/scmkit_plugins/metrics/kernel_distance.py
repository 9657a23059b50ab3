"""Kernel distance with a cubic kernel; in InceptionV3's features it is the KID."""

import numpy as np
from jaxtyping import Float

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import NoOptions, Plugin, Slot
from scmkit_plugins.metrics._pairwise import products


class KernelDistance(AbstractMetric):
    r"""The unbiased estimate of $\mathrm{MMD}^2$ with $k(x, y) = (x \cdot y / d + 1)^3$.

    `d` is the number of features (arXiv 1801.01401, Section 4). Over all pairs: means over random subsets, as
    often published, estimate the same number with more noise. Zero on average for samples as good as real
    data, so it may be negative.
    """

    needs = "two samples and two real ones"

    def __init__(self, space: str | None) -> None:
        self.space = space

    def applies(self, evaluation: Evaluation) -> bool:
        return min(len(evaluation.samples), len(evaluation.reference)) > 1

    def __call__(self, evaluation: Evaluation) -> float:
        x, y = evaluation.samples, evaluation.reference
        across = _total(x, y) / (len(x) * len(y))
        return _within(x) + _within(y) - 2 * across


def _kernel(product: Float[np.ndarray, "*n"], d: int) -> Float[np.ndarray, "*n"]:
    root = product / d + 1
    return root * root * root


def _total(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    return sum(float(_kernel(block, a.shape[1]).sum()) for block in products(a, b))


def _within(a: Float[np.ndarray, "n d"]) -> float:
    """The mean over pairs of different vectors."""
    alike = _kernel((a.astype(np.float64) ** 2).sum(1), a.shape[1]).sum()
    return float(_total(a, a) - alike) / (len(a) * (len(a) - 1))


def build(config: NoOptions) -> KernelDistance:
    return KernelDistance(None)


def build_kid(config: NoOptions) -> KernelDistance:
    return KernelDistance("inception")


plugin = Plugin(
    name="kernel-distance",
    summary="unbiased MMD^2 with a cubic kernel (arXiv 1801.01401)",
    provides={Slot.metric: build},
)

kid = Plugin(
    name="kid",
    summary="kernel Inception distance: kernel-distance of InceptionV3's features (arXiv 1801.01401)",
    provides={Slot.metric: build_kid},
)
