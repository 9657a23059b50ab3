"""Quality over the number of network evaluations: a line for each method, a chart for each group."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scmkit.evaluation import REAL
from scmkit.evaluation.intervals import Estimate
from scmkit.reporting.axes import number
from scmkit.reporting.charts import Band, Chart, Series, color_of, draw, legend
from scmkit.reporting.markup import Html, element, join
from scmkit.reporting.trials.plan import Cell, Plan
from scmkit.reporting.trials.published import GROUPS
from scmkit.reporting.trials.running import Result
from scmkit.reporting.trials.summary import summarise
from scmkit.reporting.trials.tables import group_of, labels_of

USUAL = (1, 2, 4, 8)
"""The numbers of steps on a curve where nobody names any."""
MOST = 8
"""Lines in one chart: as many as there are colors."""
HUES = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#c98a00", "#3f9fd6", "#7a5cc4", "#5f6b2d")
"""The page's colors on white."""


@dataclass(frozen=True)
class Curves:
    """One data set's curves in its first metric.

    **Attributes:**

    - `panels`: by title, and in each by method and strength of guidance, values by number of evaluations.
    - `levels`: those of a diffusion model in as many evaluations as it takes, and of real data.
    """

    data: str
    metric: str
    panels: Mapping[str, Mapping[str, Mapping[float, Estimate]]]
    levels: Mapping[str, Estimate]

    @property
    def evaluations(self) -> list[float]:
        """All numbers of evaluations."""
        of = [n for panel in self.panels.values() for own in panel.values() for n in own]
        return sorted(set(of))


def curves_of(plan: Plan, results: Sequence[Result], data: str) -> Curves | None:
    """The curves of one data set; None where nothing is measured."""
    lines = [line for line in summarise(results) if line.data == data]
    metric = next((name for line in lines if line.nfe for name in line.metrics), None)
    if metric is None:
        return None
    groups: dict[str, dict[str, dict[float, Estimate]]] = {}
    levels: dict[str, Estimate] = {}
    labels = labels_of(plan.methods)
    for line in lines:
        value = line.metrics.get(metric)
        if value is None or not math.isfinite(value.mean):
            continue
        if line.name.startswith(REAL):
            levels["real data"] = value
        if not line.method or not line.nfe:
            continue
        recipe = plan.recipe(Cell(data, line.method, 0))
        strength = "" if line.guidance is None else f", guidance {line.guidance:g}"
        label = labels[line.method] + strength
        if recipe.makes == "diffusion":
            levels[f"{label}, NFE {line.nfe:g}"] = value
        else:
            own = groups.setdefault(group_of(recipe), {}).setdefault(label, {})
            own[line.nfe] = value
    panels = {}
    larger = any(metric in line.larger_is_better for line in lines)
    for group in sorted(groups, key=GROUPS.index):
        methods = groups[group]
        best = sorted(methods, key=lambda m: _best(methods[m], larger))
        parts = [best[i : i + MOST] for i in range(0, len(best), MOST)]
        for i, part in enumerate(parts):
            title = group if len(parts) == 1 else f"{group}, {i + 1} of {len(parts)}"
            panels[title] = {method: methods[method] for method in part}
    return Curves(data, metric, panels, levels)


def _best(values: Mapping[float, Estimate], larger: bool) -> float:
    means = [value.mean for value in values.values()]
    return -max(means) if larger else min(means)


def curves_html(curves: Curves) -> Html:
    """The charts of a page, each with its legend."""
    ticks = curves.evaluations
    real = curves.levels.get("real data")
    band = None if real is None else Band("real data", *_ends(real))
    figures = []
    for title, methods in curves.panels.items():
        series = [
            Series(
                method,
                np.asarray(sorted(own), float),
                np.asarray([own[n].mean for n in sorted(own)]),
                color_of(i),
                "markers",
                spread=np.asarray([_ends(own[n]) for n in sorted(own)]),
                shift=2.0 * (i - (len(methods) - 1) / 2),
            )
            for i, (method, own) in enumerate(methods.items())
        ]
        across = np.asarray([ticks[0], ticks[-1]], float)
        series += [
            Series(name, across, np.full(2, level.mean), "gray", "line")
            for name, level in curves.levels.items()
            if name != "real data"
        ]
        chart = Chart(
            f"{title}: {curves.metric}", series, "NFE", log_x=True, x_ticks=ticks, band=band
        )
        names = legend([(s.color, s.name) for s in series])
        figures.append(element("div", draw(chart), names))
    return join(element("div", *figures, class_="charts"))


def _ends(value: Estimate) -> tuple[float, float]:
    return value.mean - (value.half or 0), value.mean + (value.half or 0)


def curves_png(some: Sequence[Curves], pyplot: Any) -> bytes:
    """All charts as one picture, those of one data set on common axes; `pyplot` is matplotlib's."""
    titled = [(curves, title) for curves in some for title in curves.panels]
    columns = min(3, len(titled))
    rows = -(-len(titled) // columns)
    size = (4.6 * columns, 3.6 * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(titled) :]:
        axis.remove()
    for axis, (curves, title) in zip(axes.flat, titled, strict=False):
        _panel(axis, curves, title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    pyplot.close(figure)
    return picture.getvalue()


def _panel(axis: Any, curves: Curves, title: str) -> None:
    everything = [
        value.mean
        for panel in curves.panels.values()
        for own in panel.values()
        for value in own.values()
    ] + [level.mean for level in curves.levels.values()]
    log = min(everything) > 0
    for name, level in curves.levels.items():
        low, high = _ends(level)
        if name == "real data":
            axis.axhspan(low, high, color="#5c6878", alpha=0.14, lw=0)
        axis.axhline(level.mean, color="#5c6878", lw=1, ls="-" if name == "real data" else "--")
        axis.annotate(
            name,
            (0, level.mean),
            xycoords=("axes fraction", "data"),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=7,
            color="#5c6878",
        )
    for i, (method, own) in enumerate(curves.panels[title].items()):
        nfe = sorted(own)
        half = [own[n].half or 0 for n in nfe]
        means = [own[n].mean for n in nfe]
        aside = 2 ** (
            0.03 * (i - (len(curves.panels[title]) - 1) / 2)
        )  # So that no bar hides another.
        place = [aside * n for n in nfe]
        style = {"lw": 1.5, "elinewidth": 1.2, "marker": "o", "ms": 4}
        axis.errorbar(place, means, half, color=HUES[i], label=method, **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(curves.evaluations, [f"{n:g}" for n in curves.evaluations])
    axis.minorticks_off()
    if log:
        axis.set_yscale("log")
        axis.set_ylim(min(everything) * 0.7, max(everything) * 1.6)
        axis.yaxis.set_major_formatter(lambda value, _: number(value))
    axis.set_title(f"{curves.data}: {title}", fontsize=9, loc="left", fontweight="bold")
    axis.set_xlabel("NFE", fontsize=8)
    axis.set_ylabel(curves.metric, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(color="#d9dee5", lw=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
