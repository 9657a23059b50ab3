"""Evaluation metrics."""

import abc
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Evaluation:
    """What a metric may look at; samples are flattened, in the data's own units.

    `exact` holds, for each sample, the exact end of its PF-ODE path, where the data set's density is
    known and the sampler is deterministic.
    """

    samples: Float[np.ndarray, "n d"]
    reference: Float[np.ndarray, "m d"]
    train: Float[np.ndarray, "k d"]
    exact: Float[np.ndarray, "n d"] | None = None


class AbstractMetric(abc.ABC):
    """A number for a set of samples; smaller is better."""

    @abc.abstractmethod
    def applies(self, evaluation: Evaluation) -> bool:
        """Whether the metric has what it needs."""

    @abc.abstractmethod
    def __call__(self, evaluation: Evaluation) -> float:
        """The value; deterministic in its input."""
