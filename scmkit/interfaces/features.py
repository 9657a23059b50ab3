"""Feature spaces: where samples are compared."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Features:
    """Feature vectors of some samples and, where the extractor classifies, class probabilities."""

    vectors: Float[np.ndarray, "n d"]
    probabilities: Float[np.ndarray, "n k"] | None = None


class AbstractFeatures(abc.ABC):
    """Maps samples to the vectors that metrics compare; deterministic, a batch at a time."""

    digest: str
    """Hex digest of all that the vectors depend on besides the samples, such as weights."""
    facts: Mapping[str, float | str]
    """Facts that a reader of the metrics should know, such as the accuracy on the test split."""

    @abc.abstractmethod
    def __call__(self, samples: Float[np.ndarray, "n *shape"]) -> Features:
        """Features of samples in the data's own units (images in [-1, 1]), as float32."""
