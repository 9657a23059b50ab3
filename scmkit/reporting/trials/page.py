"""A bench as a page and as a plain table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scmkit.evaluation import REAL
from scmkit.evaluation.intervals import Estimate, estimate
from scmkit.reporting.axes import number
from scmkit.reporting.charts import color_of, legend
from scmkit.reporting.cost import duration
from scmkit.reporting.markup import Html, element, join, table
from scmkit.reporting.page import page
from scmkit.reporting.section import Section
from scmkit.reporting.sections.metrics import metric_chart, notes, titled
from scmkit.reporting.trials.curves import curves_html, curves_of
from scmkit.reporting.trials.plan import Plan
from scmkit.reporting.trials.running import Result
from scmkit.reporting.trials.summary import Line, summarise
from scmkit.reporting.trials.verdicts import verdicts

Form = Callable[[str], list[list[str]]]
"""From a data set's name to its table in the form of a paper's, the head first."""


def bench_page(
    plan: Plan, results: Sequence[Result], facts: Mapping[str, Any], form: Form | None = None
) -> Html:
    """Charts and a table for each data set, then what it cost, what failed, and how to do it again.

    Before them stand a table in the form of a paper's, and curves over evaluations where the plan has such.
    """
    lines = summarise(results)
    sections = []
    for data in plan.data:
        mine = [line for line in lines if line.data == data]
        if mine:
            rows = [row for r in results if r.cell.data == data for row in r.rows]
            told = [element("p", f"{line}.") for line in verdicts(plan, results, data)]
            views = [] if form is None else [_in_form(form(data))]
            drawn = None if plan.curve is None else curves_of(plan, results, data)
            views += [] if drawn is None else [curves_html(drawn)]
            body = join(*views, _results(mine, plan.methods), *told, *notes(rows))
            sections.append(Section(data, _lede(plan), body))
    sections.append(Section("Cost", COST, _costs(results)))
    failed = [r for r in results if r.error is not None]
    if failed:
        rows = [[str(r.cell.path), r.error or ""] for r in failed]
        sections.append(Section("Failed", "Runs that gave no result.", table(["run", "why"], rows)))
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    where = f"{facts['device']}, Python {facts['python']}, {versions}; {facts['date']}."
    command = element("pre", facts["command"])
    sections.append(Section("Command", where, command))
    count = len(plan.cells())
    return page(
        " · ".join(plan.methods),
        f"A bench by scmkit: {len(plan.methods)} methods, {len(plan.data)} data sets, {plan.seeds} seeds; "
        f"{len(results) - len(failed)} of {count} runs.",
        sections,
    )


COST = (
    "Time of training by the runs' own logs, in the mean over seeds. A teacher is trained once for each data "
    "set and seed, under the same budget, and shared by the methods that need it: its time comes on top."
)


def _lede(plan: Plan) -> str:
    batch = "" if plan.batch_size is None else f" of {plan.batch_size} samples"
    spread = (
        f"means over {plan.seeds} seeds with 95% intervals (Student's t)"
        if plan.seeds > 1
        else "one seed"
    )
    guidance = "" if plan.guidance is None else "; samples at each strength of guidance, 1 is none"
    return (
        f"{plan.steps} training steps{batch} for every method and every teacher; {spread}. Smaller is "
        f"better, larger where an arrow points up{guidance}. The band is what real data scores, where 95% of "
        "its random splits lie; in brackets stand multiples of it."
    )


def _results(lines: Sequence[Line], methods: Sequence[str]) -> Html:
    """Charts over the strength of guidance where there is any, otherwise over evaluations; and the table."""
    guided = any(line.guidance is not None for line in lines)

    def curve(line: Line) -> str:
        return _titled(line) if guided else line.method

    curves = dict.fromkeys(curve(line) for line in lines if line.nfe) if guided else methods
    colors = {name: color_of(i) for i, name in enumerate(curves)}
    real = next((line.metrics for line in lines if line.name == REAL), {})
    larger = frozenset[str]().union(*(line.larger_is_better for line in lines))
    charts = []
    for metric in dict.fromkeys(k for line in lines for k in line.metrics):
        points = {}
        for name, color in colors.items():
            found = [
                (
                    line.nfe if line.guidance is None else line.guidance,
                    one.mean,
                    None if one.half is None else (one.mean - one.half, one.mean + one.half),
                )
                for line in lines
                if line.nfe and curve(line) == name and (one := line.metrics.get(metric))
            ]
            if found:
                points[name, color] = found
        if points:
            level = real.get(metric)
            band = (
                None
                if level is None
                else (level.mean - (level.half or 0), level.mean + (level.half or 0))
            )
            axis = {"x_label": "guidance", "log_x": False} if guided else {}
            charts.append(metric_chart(titled(metric, larger), points, band, **axis))
    head, *rows = table_of(lines)
    names = legend([(color, name) for name, color in colors.items()])
    return join(
        names, element("div", *charts, class_="charts"), table(head, rows, class_="numbers")
    )


def table_of(lines: Sequence[Line]) -> list[list[str]]:
    """The lines of one data set as text, the head first."""
    metrics = list(dict.fromkeys(k for line in lines for k in line.metrics))
    real = next((line.metrics for line in lines if line.name == REAL), {})
    larger = frozenset[str]().union(*(line.larger_is_better for line in lines))
    guided = any(line.guidance is not None for line in lines)
    head = ["", "NFE", *(["guidance"] if guided else []), *(titled(m, larger) for m in metrics)]
    rows = [head]
    for line in lines:
        where = [line.nfe, line.guidance] if guided else [line.nfe]
        numbers = ["" if value is None else f"{value:g}" for value in where]
        cells = [_shown(line.metrics.get(m), real.get(m)) for m in metrics]
        rows.append([_titled(line), *numbers, *cells])
    return rows


def _in_form(rows: Sequence[list[str]]) -> Html:
    head, *rest = rows
    return table(head, rest, class_="numbers")


def _titled(line: Line) -> str:
    return f"{line.method}: {line.name}" if line.method else line.name


def markdown_of(lines: Sequence[Line]) -> str:
    """The table of one data set in Markdown."""
    return in_markdown(table_of(lines))


def in_markdown(table: Sequence[Sequence[str]]) -> str:
    """A table, its head first, in Markdown."""
    head, *rows = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table
    ]
    return "\n".join([head, "|" + " --- |" * head.count(" | ") + " --- |", *rows]) + "\n"


def _shown(value: Estimate | None, real: Estimate | None) -> str:
    if value is None:
        return ""
    half = "" if value.half is None else f" ± {number(value.half, 2)}"
    # A multiple of what may be 0 says nothing.
    counts = real is not None and real.mean > (real.half or 0)
    ratio = f" ({value.mean / real.mean:.2f}×)" if real is not None and counts else ""
    return f"{value.mean:.4f}{half}{ratio}"


def _costs(results: Sequence[Result]) -> Html:
    grouped: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.error is None:
            grouped.setdefault((result.cell.method, result.cell.data), []).append(result)
    rows = [
        [
            method,
            data,
            f"{some[0].parameters:,}",
            duration(estimate([r.seconds for r in some]).mean),
            "none"
            if some[0].teacher is None
            else duration(estimate([r.teacher_seconds for r in some]).mean),
        ]
        for (method, data), some in grouped.items()
    ]
    head = ["method", "data", "parameters", "training", "its teacher"]
    return table(head, rows, class_="numbers")
