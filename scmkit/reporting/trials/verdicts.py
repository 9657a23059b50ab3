"""What the numbers of a bench say: which methods a Gaussian fit equals, and which claimed orders hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from scmkit.evaluation import GAUSSIAN
from scmkit.evaluation.intervals import Estimate, estimate
from scmkit.reporting.trials.plan import Plan, claimed
from scmkit.reporting.trials.running import Result
from scmkit.reporting.trials.summary import Line, summarise


@dataclass(frozen=True)
class Comparison:
    """The claim that a metric of `larger` exceeds that of `smaller`, and the mean difference over seeds.

    Both methods share the seeds of data, teacher, training and sampling, so that differences are taken seed
    by seed; the interval is Student's t at 95%.
    """

    data: str
    metric: str
    nfe: float
    larger: str
    smaller: str
    difference: Estimate
    guidance: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the interval of the difference lies above 0, below it, or on both sides."""
        half = self.difference.half
        if half is None or abs(self.difference.mean) <= half:
            return "cannot be told"
        return "holds" if self.difference.mean > 0 else "is reversed"

    def __str__(self) -> str:
        half = "" if self.difference.half is None else f" ± {self.difference.half:.2g}"
        return (
            f"{self.larger} > {self.smaller} in {self.metric} at NFE {_at(self.nfe, self.guidance)}: "
            f"difference {self.difference.mean:.3g}{half}, {self.verdict}"
        )


def verdicts(plan: Plan, results: Sequence[Result], data: str) -> list[str]:
    """Sentences below the table of one data set, on the first metric where an order names no other."""
    lines = [line for line in summarise(results) if line.data == data]
    metric = next((name for line in lines for name in line.metrics), None)
    if metric is None:
        return []
    some = no_better_than_gaussian(lines, metric)
    told = [] if some is None else [some]
    for order in plan.orders:
        mine = [result for result in results if result.cell.data == data]
        methods, other = claimed(order, plan.methods)
        found = compare(mine, methods, other or metric)
        for pair in pairwise(methods):
            judged = [str(one) for one in found if (one.larger, one.smaller) == pair]
            told += judged or [
                f"{' > '.join(pair)} in {other or metric}: not judged, as the two share no evaluation with it"
            ]
    return told


def compare(results: Sequence[Result], order: Sequence[str], metric: str) -> list[Comparison]:
    """Each method of an order against the next, on every data set, at every NFE and strength of both."""
    values: dict[tuple[str, str, float, float | None], dict[int, float]] = {}
    for result in results:
        for row in result.rows:
            if row.nfe is not None and metric in row.metrics:
                key = (result.cell.data, result.cell.method, row.nfe, row.guidance)
                of = values.setdefault(key, {})
                of[result.cell.seed] = row.metrics[metric]
    comparisons = []
    for larger, smaller in pairwise(order):
        for (data, method, nfe, guidance), ours in values.items():
            theirs = values.get((data, smaller, nfe, guidance), {})
            common = sorted(ours.keys() & theirs.keys())
            if method == larger and common:
                difference = estimate([ours[seed] - theirs[seed] for seed in common])
                comparisons.append(
                    Comparison(data, metric, nfe, larger, smaller, difference, guidance)
                )
    return comparisons


def no_better_than_gaussian(lines: Sequence[Line], metric: str) -> str | None:
    """The methods of one data set that a Gaussian of the training data's moments equals, in one line.

    None where the Gaussian has no value of the metric, as where the data set is not finite.
    """
    fit = next((line.metrics.get(metric) for line in lines if line.name == GAUSSIAN), None)
    if fit is None:
        return None
    beaten: dict[str, list[str]] = {}
    for line in lines:
        value = line.metrics.get(metric)
        if line.method and line.nfe is not None and value is not None:
            better = value.mean - fit.mean
            if (better if metric in line.larger_is_better else -better) <= 0:
                beaten.setdefault(line.method, []).append(_at(line.nfe, line.guidance))
    which = "; ".join(f"{method} at NFE {', '.join(nfe)}" for method, nfe in beaten.items())
    return f"{metric} no better than a Gaussian fit's {fit.mean:.4g}: {which or 'none'}"


def _at(nfe: float, guidance: float | None) -> str:
    return f"{nfe:g}" if guidance is None else f"{nfe:g} and guidance {guidance:g}"
