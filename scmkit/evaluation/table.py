"""What all rows of an evaluation have in common: the metrics, and the real data in each space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from scmkit.composing.build import build_free
from scmkit.data.derived import digest, directory_of
from scmkit.evaluation.baselines import gaussian, subset
from scmkit.evaluation.comparison import Comparison, Scores, averaged
from scmkit.evaluation.generated import Generated
from scmkit.evaluation.real import RealData
from scmkit.evaluation.rows import GAUSSIAN, LEAVE_ONE_OUT, Row, real_name
from scmkit.evaluation.spaces import BATCH, DATA, Progress, Space
from scmkit.evaluation.usual import reason
from scmkit.interfaces import AbstractDataset, AbstractMetric, DataSpec
from scmkit.plugin import Slot

Options = Mapping[str, Mapping[str, Any]]
"""Options of plugins, by the plugin's name."""


@dataclass(frozen=True)
class Table:
    """The comparisons behind every row of `n` samples.

    **Attributes:**

    - `comparisons`: one for each space.
    - `measures`: the metrics by name, in the order in which rows have them.
    - `left_out`: the metrics that are not computed, and why.
    - `n`: the number of samples in a row.
    """

    comparisons: Sequence[Comparison]
    measures: Mapping[str, AbstractMetric]
    left_out: Mapping[str, str]
    n: int

    @property
    def spaces(self) -> list[Space]:
        """The spaces in which rows are compared."""
        return [comparison.space for comparison in self.comparisons]

    def row(self, name: str, scores: Sequence[Scores], *, n: int | None = None, **told: Any) -> Row:
        """A row from the scores in each space; `told` is what else a `Row` holds."""
        values = {k: v for some, _ in scores for k, v in some.items()}
        extractors = {s.name: s.features for s in self.spaces if s.features is not None}
        absent = {k: reason(m) for k, m in self.measures.items() if k not in values}
        return Row(
            name=name,
            metrics={k: values[k] for k in self.measures if k in values},
            intervals={k: v for _, some in scores for k, v in some.items()},
            features={k: {"digest": f.digest, **f.facts} for k, f in extractors.items()},
            larger_is_better=frozenset(k for k in values if self.measures[k].larger_is_better),
            n=self.n if n is None else n,
            missing={**self.left_out, **absent},
            **told,
        )

    def scores(self, found: Generated, exact: Float[np.ndarray, "n d"] | None) -> list[Scores]:
        """The scores in each space of samples; `exact` as in `Evaluation`, of the data's own."""
        return [
            c(vectors, exact if c.space.features is None else None)
            for c, vectors in zip(self.comparisons, found.features, strict=True)
        ]

    def of_real(self, real: RealData, count: int, rng: np.random.Generator) -> Row:
        """The row of real data, the mean of `count` random splits: what a perfect model would score."""
        splits = real.splits(self.n, count, rng)
        there = len(splits[0][0])
        scores = [comparison.of_real(splits) for comparison in self.comparisons]
        return self.row(real_name(there if there < self.n else None), scores, nfe=None, n=there)

    def of_training(self, rng: np.random.Generator) -> Row | None:
        """The row of training data, each against the others; None where no metric has such a value."""
        some = subset(rng, len(self.comparisons[0].train.vectors), self.n)
        scores = [comparison.of_training(some) for comparison in self.comparisons]
        if not any(values for values, _ in scores):
            return None
        row = self.row(LEAVE_ONE_OUT, scores, nfe=None, n=len(some))
        why = "it has no value for training data against the others"
        absent = {k: why for k in self.measures if k not in row.metrics}
        return replace(row, missing={**absent, **self.left_out})

    def of_gaussian(
        self, real: RealData, data: DataSpec, rng: np.random.Generator, seeds: int
    ) -> Row:
        """The row of draws from a Gaussian with the training data's mean and covariance."""
        train, _ = real.dataset.read("train", real.train.indices)
        draws: list[list[Scores]] = []
        for _ in range(seeds):
            drawn = gaussian(rng, train.reshape(len(train), -1), self.n)
            drawn = drawn.reshape(self.n, *real.dataset.shape)
            # Features are of images, which end at -1 and 1.
            fits = [drawn if s.features is None else data.clipped(drawn) for s in self.spaces]
            found = zip(self.comparisons, fits, strict=True)
            draws.append([c(c.space(x)) for c, x in found])
        means = [averaged(one) for one in zip(*draws, strict=True)]
        return self.row(GAUSSIAN, means, nfe=None, seeds=seeds)


def compare(
    spaces: Sequence[Space],
    real: RealData,
    indices: Int[np.ndarray, "r n"] | None,
    progress: Progress,
) -> list[Comparison]:
    """The real data in each space; `indices` are those of resamples, None for no intervals."""
    used = any(space.features is not None for space in spaces)
    where = (directory_of(real.dataset), digest(real.dataset)) if used else None

    def comparison(space: Space) -> Comparison:
        reference, pool = (
            space.of_real(real.dataset, some, where, progress)
            for some in (real.reference, real.pool)
        )
        train = pool if real.pool is real.train else reference
        return Comparison(space, reference, train, pool, indices)

    return [comparison(space) for space in spaces]


def spaces_of(
    dataset: AbstractDataset,
    measures: Mapping[str, AbstractMetric],
    default: str,
    options: Options,
    n: int,
) -> list[Space]:
    """Each space that a metric asks for, `default` for those that do not."""
    metrics: dict[str, dict[str, AbstractMetric]] = {}
    for name, metric in measures.items():
        metrics.setdefault(metric.space or default, {})[name] = metric

    def extractor(name: str) -> Any:
        given = options.get(name, {}), dataset, directory_of(dataset)
        return None if name == DATA else build_free(Slot.features, name, *given)

    batch = min(BATCH, n)
    return [Space(name, own, extractor(name), batch) for name, own in metrics.items()]
