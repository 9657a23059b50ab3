"""From the results of single seeds to means with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from scmkit.evaluation import LEAVE_ONE_OUT, REAL, Row
from scmkit.evaluation.intervals import Estimate, estimate
from scmkit.reporting.trials.running import Result


@dataclass(frozen=True)
class Line:
    """One line of a bench's table: a method on a data set at a number of evaluations and a strength.

    `method` is empty for the baselines: real data, a Gaussian fit. `guidance` is None where none was given.
    """

    data: str
    method: str
    name: str
    nfe: float | None
    metrics: dict[str, Estimate]
    larger_is_better: frozenset[str] = frozenset()
    guidance: float | None = None


def _over_seeds(rows: Sequence[Row], metric: str) -> Estimate:
    """The mean over seeds; of real data with the spread of random splits, as all seeds have the same data."""
    found = estimate([row.metrics[metric] for row in rows])
    spread = [row.intervals[metric] for row in rows if metric in row.intervals]
    if not (rows[0].name.startswith(REAL) or rows[0].name == LEAVE_ONE_OUT):
        return found
    half = mean((high - low) / 2 for low, high in spread) if spread else None
    return replace(found, half=half)


def summarise(results: Sequence[Result]) -> list[Line]:
    """Lines by data set, then method, then number of steps, then strength of guidance.

    Those of real data and the Gaussian come first.
    """
    grouped: dict[tuple[str, str, str, float | None], list[Row]] = {}
    for result in results:
        for row in result.rows:
            method = "" if row.nfe is None else result.cell.method
            key = (result.cell.data, method, row.name, row.guidance)
            grouped.setdefault(key, []).append(row)
    lines = []
    for (data, method, name, guidance), rows in grouped.items():
        names = dict.fromkeys(k for row in rows for k in row.metrics)
        metrics = {k: _over_seeds([r for r in rows if k in r.metrics], k) for k in names}
        nfe = [row.nfe for row in rows if row.nfe is not None]
        larger = frozenset[str]().union(*(row.larger_is_better for row in rows))
        evaluations = mean(nfe) if nfe else None
        lines.append(Line(data, method, name, evaluations, metrics, larger, guidance))
    order = list(dict.fromkeys(line.data for line in lines))
    methods = ["", *dict.fromkeys(r.cell.method for r in results)]
    samplings = list(dict.fromkeys((line.data, line.method, line.name) for line in lines))

    def place(line: Line) -> tuple[int, int, int]:
        sampling = samplings.index((line.data, line.method, line.name))
        return order.index(line.data), methods.index(line.method), sampling

    return sorted(lines, key=place)
