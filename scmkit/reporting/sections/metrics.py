"""Metrics against the number of network evaluations, with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scmkit.evaluation import REAL, Row, evaluate, remarks
from scmkit.reporting.axes import number
from scmkit.reporting.charts import Band, Chart, Series, draw, legend
from scmkit.reporting.cost import duration, peak_memory
from scmkit.reporting.markup import Html, element, join, table
from scmkit.reporting.section import Missing, Section
from scmkit.reporting.subjects import Asked, Subject, with_teachers

ASIDE = 3.0
"""Pixels between the error bars of different runs at one NFE."""
LEDE = (
    "Samples against the test split, over the number of network evaluations (NFE) that one sample takes; "
    "smaller is better, larger where an arrow points up. The band is what real training data scores, which a "
    "perfect model would match. Bars are 95% intervals, where there are any; in brackets stand multiples of "
    "the real score."
)


def section(subjects: Sequence[Subject], asked: Asked) -> Section:
    """A chart for each metric and a table of all rows."""
    if not asked.metrics:
        raise Missing("they were switched off with --no-metrics")
    listed = with_teachers(subjects)
    rows: dict[str, list[Row]] = {}
    for subject in listed:
        # Data of one source has one set of baselines.
        first = all(s.data.source != subject.data.source for s in listed[: listed.index(subject)])
        rows[subject.name] = rows_of(subject, asked, baselines=first)
    groups = _by_data(listed)
    parts: list[Html] = [legend([(s.color, s.name) for s in listed])]
    for group in groups:
        if len(groups) > 1:
            parts.append(element("h3", group[0].data.source))
        parts.append(element("div", *_charts(group, rows), class_="charts"))
        parts.append(_table(group, rows))
        parts += notes([row for subject in group for row in rows[subject.name]])
    memory = peak_memory()
    note = "" if memory is None else f"Peak memory {memory[1]}: {number(memory[0])}B."
    parts.append(element("p", note, class_="note"))
    return Section("Metrics", LEDE, join(*parts))


def notes(rows: Sequence[Row]) -> list[Html]:
    """Notes below a table of rows, and the feature spaces they are in."""
    facts = {
        f"In the features of {k}: {_shown(v)}" for row in rows for k, v in row.features.items()
    }
    return [element("p", f"{line}.", class_="note") for line in (*remarks(rows), *sorted(facts))]


def rows_of(subject: Subject, asked: Asked, *, baselines: bool) -> list[Row]:
    """The evaluation of a run."""
    extra: dict[str, Any] = {} if asked.features is None else {"features": asked.features}
    return evaluate(
        subject.run,
        steps=subject.steps,
        n=asked.n,
        seed=asked.seed,
        baselines=baselines,
        **extra,
    )


def _by_data(listed: Sequence[Subject]) -> list[list[Subject]]:
    """Runs in groups of one data set each: scores on different data do not compare."""
    groups: dict[str, list[Subject]] = {}
    for subject in listed:
        groups.setdefault(subject.data.source, []).append(subject)
    return list(groups.values())


def metric_chart(
    title: str,
    points: Mapping[tuple[str, str], Sequence[tuple[float, float, tuple[float, float] | None]]],
    real: tuple[float, float] | None,
    *,
    x_label: str = "NFE",
    log_x: bool = True,
) -> Html:
    """One metric over NFE, or what `x_label` names: for each (name, color) its `(x, value, interval)`."""
    series, ticks = [], set[float]()
    for i, ((name, color), given) in enumerate(points.items()):
        place, value, spread = zip(*sorted(given), strict=True)
        ticks |= set(map(float, place))
        ends = np.asarray([(np.nan, np.nan) if s is None else s for s in spread], float)
        series.append(
            Series(
                name,
                np.asarray(place, float),
                np.asarray(value),
                color,
                "markers",
                spread=ends,
                shift=ASIDE * (i - (len(points) - 1) / 2),
            )
        )
    band = None if real is None else Band("real data", *real)
    return draw(
        Chart(title, series, x_label, log_x=log_x, log_y=False, x_ticks=sorted(ticks), band=band)
    )


def _charts(group: Sequence[Subject], rows: Mapping[str, list[Row]]) -> list[Html]:
    everything = [row for s in group for row in rows[s.name]]
    real = next((r for r in everything if r.name == REAL), None)
    larger = frozenset[str]().union(*(row.larger_is_better for row in everything))
    charts = []
    for metric in _metrics(everything):
        points = {
            (s.name, s.color): [
                (r.nfe, r.metrics[metric], r.intervals.get(metric))
                for r in rows[s.name]
                if r.nfe is not None and r.nfe > 0 and metric in r.metrics
            ]
            for s in group
        }
        points = {k: v for k, v in points.items() if v}
        level = None
        if real is not None and metric in real.metrics:
            value = real.metrics[metric]
            level = real.intervals.get(metric, (value, value))
        if points:
            charts.append(metric_chart(titled(metric, larger), points, level))
    return charts


def titled(metric: str, larger: frozenset[str]) -> str:
    """A metric's name, with an arrow if larger is better."""
    return f"{metric} ↑" if metric in larger else metric


def _metrics(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(k for row in rows for k in row.metrics))


def _table(group: Sequence[Subject], rows: Mapping[str, list[Row]]) -> Html:
    everything = [(s, row) for s in group for row in rows[s.name]]
    names = _metrics([row for _, row in everything])
    timed = any(row.seconds is not None for _, row in everything)
    real = next((r.metrics for _, r in everything if r.name == REAL), {})
    larger = frozenset[str]().union(*(row.larger_is_better for _, row in everything))
    head = [
        "",
        "NFE",
        *(titled(name, larger) for name in names),
        *(["time per sample"] if timed else []),
    ]
    lines = []
    for subject, row in everything:
        cells = [row.name if row.nfe is None else f"{subject.name}: {row.name}"]
        cells.append("" if row.nfe is None else f"{row.nfe:g}")
        cells += [metric_cell(row, name, real.get(name)) for name in names]
        if timed:
            cells.append("" if row.seconds is None else duration(row.seconds))
        lines.append(cells)
    return table(head, lines, class_="numbers")


def metric_cell(row: Row, name: str, real: float | None) -> str:
    """`0.0391 ± 0.0012 (1.80×)`: a value, half its interval, and the multiple of the real score."""
    value = row.metrics.get(name)
    if value is None:
        return ""
    low, high = row.intervals.get(name, (np.nan, np.nan))
    half = f" ± {number((high - low) / 2, 2)}" if np.isfinite(high - low) else ""
    return f"{value:.4f}{half}" + (f" ({value / real:.2f}×)" if real else "")


def _shown(facts: Mapping[str, float | str]) -> str:
    return ", ".join(
        f"{k} {number(v) if isinstance(v, float) else v}" for k, v in sorted(facts.items())
    )
