"""Evaluation metrics."""

import abc
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Evaluation:
    """The data that a metric may look at: vectors in one space, flattened samples or features of them.

    `samples` are generated, `reference` is the split they are held against, `train` (some of) the training
    split. `probabilities` are the class probabilities of the samples, where the features classify. `exact`
    holds, for each sample, the exact end of its PF-ODE path, where the data set's density is known, the
    sampler is deterministic and the space is the data's own.
    """

    samples: Float[np.ndarray, "n d"]
    reference: Float[np.ndarray, "m d"]
    train: Float[np.ndarray, "k d"]
    exact: Float[np.ndarray, "n d"] | None = None
    probabilities: Float[np.ndarray, "n c"] | None = None

    def at(self, indices: Int[np.ndarray, " k"]) -> "Evaluation":
        """The same of the samples at `indices`, which may repeat."""
        exact, classes = self.exact, self.probabilities
        return replace(
            self,
            samples=self.samples[indices],
            exact=None if exact is None else exact[indices],
            probabilities=None if classes is None else classes[indices],
        )


class AbstractMetric(abc.ABC):
    """A number for a set of samples; smaller is better unless it says otherwise."""

    larger_is_better: bool = False
    space: str | None = None
    """The features plugin the metric is defined in, or `"data"`; None where any space will do."""
    finds_training_data: bool = False
    """Whether it looks for copies of `train`, so that it says nothing of training data itself."""
    needs: str = ""
    """Completes the message "it needs ..." where the metric does not apply: `more than 3 samples`."""

    @abc.abstractmethod
    def applies(self, evaluation: Evaluation) -> bool:
        """Whether the metric has what it needs."""

    @abc.abstractmethod
    def __call__(self, evaluation: Evaluation) -> float:
        """The value; deterministic in its input."""

    def leave_one_out(self, evaluation: Evaluation) -> float | None:
        """The value of training data, `samples` of `train` held against all others of it.

        None where there is no such thing, as for most metrics.
        """
        return None

    def resampled(
        self, evaluation: Evaluation, indices: Int[np.ndarray, "r n"]
    ) -> Float[np.ndarray, " r"]:
        """The values for the samples at each row of `indices`; metrics may do it faster."""
        return np.asarray([self(evaluation.at(row)) for row in indices])
