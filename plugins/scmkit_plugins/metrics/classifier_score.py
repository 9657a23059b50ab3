"""Classifier score; with InceptionV3 as the classifier it is the Inception Score."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from annotated_types import Gt
from jaxtyping import Float

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Plugin, Slot


@dataclass(frozen=True)
class Options:
    """Options of the classifier score."""

    splits: Annotated[int, Gt(0)] = 1
    """Parts whose scores are averaged."""


@dataclass(frozen=True)
class InceptionOptions(Options):
    """Options of the Inception Score."""

    splits: Annotated[int, Gt(0)] = 10
    """Parts whose scores are averaged; published scores have 10 of 5000 samples."""


@dataclass(frozen=True)
class ClassifierScore(AbstractMetric):
    r"""$\exp E_x\,\mathrm{KL}(p(y \mid x) \,\|\, p(y))$: between 1 and the number of classes.

    High where the classifier is sure of every sample and finds all classes equally often; blind to anything
    else, such as a single picture per class (Inception Score, arXiv 1606.03498, Section 4). The mean over
    `splits` interleaved parts, each with a $p(y)$ of its own: more parts, lower values.
    """

    options: Options
    space: str | None = None
    larger_is_better = True

    @property
    def needs(self) -> str:
        return f"features that classify, and {self.options.splits} or more samples"

    def applies(self, evaluation: Evaluation) -> bool:
        return (
            evaluation.probabilities is not None and len(evaluation.samples) >= self.options.splits
        )

    def __call__(self, evaluation: Evaluation) -> float:
        assert evaluation.probabilities is not None
        p = evaluation.probabilities.astype(np.float64)
        # Interleaved, since samples may come in the order of their labels.
        splits = self.options.splits
        parts = [p[i::splits] for i in range(splits)]
        gains = [_entropy(part.mean(0, keepdims=True)) - _entropy(part) for part in parts]
        return float(np.exp(gains).mean())


def _entropy(p: Float[np.ndarray, "n classes"]) -> float:
    """The mean entropy of some distributions, in nats."""
    return float(-(p * np.log(np.where(p > 0, p, 1))).sum(1).mean())


plugin = Plugin(
    name="classifier-score",
    summary="how sure a classifier is of each sample, and of how many classes (larger is better)",
    provides={Slot.metric: ClassifierScore},
    config=Options,
)

inception_score = Plugin(
    name="inception-score",
    summary="Inception Score: classifier-score of InceptionV3 (larger is better; arXiv 1606.03498)",
    provides={Slot.metric: partial(ClassifierScore, space="inception")},
    config=InceptionOptions,
)
