"""Training curves: everything in `metrics.jsonl`."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from scmkit.reporting.charts import Chart, Series, draw, legend
from scmkit.reporting.markup import element, join
from scmkit.reporting.section import Missing, Section
from scmkit.reporting.subjects import Asked, Subject, with_teachers
from scmkit.training.step import NOISE_BINS

TITLES = {
    "loss": "loss",
    "mse": "mean squared error of the velocity",
    "df_dt": "‖df/dt‖, all noise levels",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "steps_per_second": "steps per second",
}
SPLIT = {"df_dt": "‖df/dt‖", "mse": "mean squared error"}
LEDE = (
    "With tangent normalization the loss of a consistency model says little about its progress: watch "
    "‖df/dt‖, which falls. Split by noise level, it shows where the model still learns."
)


def section(subjects: Sequence[Subject], asked: Asked) -> Section:
    """One chart for each scalar, with all runs; one for each run of a metric split by noise level.

    Losses and gradient norms of other players stand behind the generator's.
    """
    listed = with_teachers(subjects)
    logs = {s.name: s.run.metrics for s in listed}
    if not any(logs.values()):
        raise Missing("the runs have no metrics.jsonl")
    names = dict.fromkeys(k for lines in logs.values() for line in lines for k in line)
    scalars = [k for k in names if k != "step" and not k.endswith("_by_noise")]
    split = [k for k in names if k.endswith("_by_noise")]
    known = [k for title in TITLES for k in scalars if k.rpartition("/")[2] == title]
    order = [*known, *(k for k in scalars if k not in known)]
    charts = [
        draw(
            Chart(
                _title(name),
                [
                    Series(s.name, *_column(logs[s.name], name), color=s.color)
                    for s in listed
                    if any(name in line for line in logs[s.name])
                ],
                "step",
                log_y=False if name == "lr" else None,
            )
        )
        for name in order
    ]
    by_noise = []
    for name in split:
        for s in listed:
            if any(name in line for line in logs[s.name]):
                by_noise.append(draw(_by_noise(s, logs[s.name], name)))
    colors = legend([(s.color, s.name) for s in listed])
    levels = legend([(f"q{i}", level) for i, level in enumerate(bin_names())])
    return Section(
        "Training",
        LEDE,
        join(
            colors,
            element("div", *charts, class_="charts"),
            element("h3", "By noise-to-signal ratio σ/α"),
            levels,
            element("div", *by_noise, class_="charts"),
        ),
    )


def _title(name: str) -> str:
    """The title of a metric; players beside the generator have theirs as `PLAYER/METRIC`."""
    player, _, metric = name.rpartition("/")
    if player and metric in TITLES:
        return f"{TITLES[metric]} of player '{player}'"
    return TITLES.get(name, name)


def bin_names() -> list[str]:
    """The noise bins of `metrics.jsonl`, low noise first."""
    edges = [f"{edge:g}" for edge in NOISE_BINS]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    return [f"below {edges[0]}", *between, f"above {edges[-1]}"]


def _by_noise(subject: Subject, lines: Sequence[dict[str, Any]], name: str) -> Chart:
    metric = name.removesuffix("_by_noise")
    title = f"{SPLIT.get(metric, metric)}, {subject.name}"
    series = [
        Series(level, *_column(lines, name, i), color=f"q{i}")
        for i, level in enumerate(bin_names())
    ]
    return Chart(title, series, "step")


def _column(
    lines: Sequence[dict[str, Any]], name: str, index: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric; NaN where a line has none."""
    steps, values = [], []
    for line in lines:
        value = line.get(name)
        if index is not None and value is not None:
            value = value[index] if index < len(value) else None
        steps.append(float(line["step"]))
        values.append(np.nan if value is None else float(value))
    return np.asarray(steps), np.asarray(values)
