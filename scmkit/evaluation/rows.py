"""What an evaluation returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scmkit.interfaces import Split

REAL, GAUSSIAN = "real (training data)", "Gaussian (training mean and covariance)"


def real_name(split: Split) -> str:
    """The name of the row of real data, drawn from the split that samples are not held against."""
    return REAL if split == "test" else "real (test data)"


@dataclass(frozen=True)
class Row:
    """One line of an evaluation: what was held against real data, and how it did.

    **Attributes:**

    - `nfe`: network evaluations for one sample; None for what was not drawn from a model.
    - `metrics`: values by metric, and in `intervals` the 95% confidence interval of each that has one.
    - `seconds`: time it took to draw one sample, `scmkit.sampling.drawing.BATCH` at once and without
        compiling; None for what was not drawn.
    - `features`: by the plugin's name, the digest and the facts of each feature space that was used.
    - `larger_is_better`: the metrics of which that is so.
    """

    name: str
    nfe: float | None
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float | None = None
    features: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)
    larger_is_better: frozenset[str] = frozenset()
