"""Samples at each number of steps, from the same noise."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from scmkit.reporting.charts import Chart, Series, draw, extent
from scmkit.reporting.markup import Html, element, join
from scmkit.reporting.pictures import grid
from scmkit.reporting.section import Section
from scmkit.reporting.subjects import COLUMNS, VECTORS, Asked, Subject

BINS = 60
LEDE = (
    "Unselected. The noise is the same for every run and number of steps, so that what differs is the model "
    "and the sampler."
)


def section(subjects: Sequence[Subject], asked: Asked) -> Section:
    """For each run its samples, and its teacher's at the end."""
    rows = []
    for subject in subjects:
        pictures = [_picture(subject, count) for count in subject.steps]
        if subject.teacher is not None and not any(subject.teacher is s for s in subjects):
            teacher = subject.teacher
            pictures.append(_picture(teacher, teacher.steps[-1]))
        heading = element("h3", subject.name) if len(subjects) > 1 else None
        rows.append(join(heading, element("div", *pictures, class_="row")))
    return Section("Samples", LEDE, join(*rows))


def _picture(subject: Subject, steps: int) -> Html:
    title, x = subject.shown(steps), subject.drawn(steps)
    if subject.is_image:
        return element(
            "figure", element("figcaption", title), grid(x, COLUMNS, title, subject.captions)
        )
    return draw(against(subject.reference(VECTORS), x.reshape(len(x), -1), title, subject.color))


def against(
    reference: Float[np.ndarray, "m d"],
    samples: Float[np.ndarray, "n d"],
    title: str,
    color: str,
) -> Chart:
    """Vectors over test data: histograms in one dimension, else a scatter of the first two."""
    if reference.shape[1] > 1:
        corners = extent(reference[:, :2])
        shown = samples[:, :2]
        x, y = shown[((shown > corners[0]) & (shown < corners[1])).all(1)].T
        data = Series("test data", *reference[:, :2].T, color="gray", kind="dots")
        return Chart(title, [data, Series("samples", x, y, color, "dots")], plane=corners)
    ends = (float(reference.min()), float(reference.max()))
    margin = 0.25 * (ends[1] - ends[0])
    edges = np.linspace(ends[0] - margin, ends[1] + margin, BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    series = []
    for name, values, hue in (("test data", reference, "gray"), ("samples", samples, color)):
        density = np.histogram(values[:, 0], edges)[0] / len(values) / np.diff(edges)
        series.append(Series(name, middles, density, hue))
    return Chart(title, series, "x", log_y=False)
