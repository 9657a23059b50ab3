"""Improved precision and recall: how real samples are, and how much of the data they cover."""

from scmkit.interfaces import Evaluation
from scmkit.plugin import Plugin, Slot, itself
from scmkit_plugins.metrics._manifold import AbstractManifoldMetric, memberships


class Precision(AbstractManifoldMetric):
    """The share of samples in the reference's manifold: within reach of some real vector.

    A vector's reach is the distance to its `k`-th nearest neighbour in its own set (arXiv 1904.06991,
    Equations 1 and 2). Rises as both sets grow sparse: compare values of the same number of samples only.
    """

    def __call__(self, evaluation: Evaluation) -> float:
        return float((memberships(evaluation.samples, evaluation.reference, self.k) > 0).mean())


class Recall(AbstractManifoldMetric):
    """The share of the reference in the samples' manifold: precision with the sets exchanged.

    Outliers among the samples reach far and raise it (arXiv 2002.09797, Section 2).
    """

    def __call__(self, evaluation: Evaluation) -> float:
        return float((memberships(evaluation.reference, evaluation.samples, self.k) > 0).mean())


precision = Plugin(
    name="precision",
    summary="share of samples within reach of real data (larger is better; arXiv 1904.06991)",
    provides={Slot.metric: itself},
    config=Precision,
)

recall = Plugin(
    name="recall",
    summary="share of real data within reach of samples (larger is better; arXiv 1904.06991)",
    provides={Slot.metric: itself},
    config=Recall,
)
