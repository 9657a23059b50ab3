"""Charts as inline SVG, colored by the page's style sheet and so legible in light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from scmkit.reporting.axes import Axis, axis_of, number
from scmkit.reporting.markup import Html, element, join

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 44
COLOURS = 8
"""Hues of the style sheet (Okabe and Ito's, for every kind of color vision), `c0` to `c7`."""
LONGEST = 400
"""Points a line is drawn with; a longer one is averaged down."""


@dataclass(frozen=True)
class Series:
    """One set of points.

    `color` is a class of the style sheet: `c0` to `c7`, `q0` to `q3` (low to high noise) or `gray`.
    `spread` holds the ends of each point's error bar, `shift` moves the marks aside by so many pixels. A NaN
    breaks a line.
    """

    name: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    color: str = "c0"
    kind: Literal["line", "markers", "dots"] = "line"
    spread: Float[np.ndarray, "n 2"] | None = None
    shift: float = 0.0


@dataclass(frozen=True)
class Band:
    """A level, or an interval of them, across the whole chart."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """Series on common axes; `log_x` and `log_y` of None let the values decide."""

    title: str
    series: Sequence[Series]
    x_label: str = ""
    log_x: bool | None = False
    log_y: bool | None = None
    x_ticks: Sequence[float] = ()
    band: Band | None = None
    plane: Float[np.ndarray, "2 2"] | None = None
    """Corners of a picture of the plane: one scale for both axes, without ticks (see `extent`)."""


def color_of(index: int) -> str:
    """The color of the run number `index`."""
    return f"c{index % COLOURS}"


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Names beside their colors: pairs of a class and a name."""
    items = [
        element("li", element("span", class_=f"swatch {color}"), name) for color, name in entries
    ]
    return element("ul", *items, class_="legend")


def draw(chart: Chart) -> Html:
    """The chart as a figure."""
    content = _axes(chart) if chart.plane is None else _plane(chart, chart.plane)
    names = ", ".join(dict.fromkeys(s.name for s in chart.series if s.name))
    label = f"{chart.title}: {names}" if names else chart.title
    svg = element("svg", content[1], viewBox=content[0], role="img", aria_label=label)
    return element("figure", element("figcaption", chart.title), svg, class_="chart")


def extent(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "2 2"]:
    """The corners of a rectangle around all points with a margin, half to 1.2 times as high as wide."""
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    middle, (wide, tall) = (low + high) / 2, np.maximum(high - low, 1e-6) * 1.08
    wide = max(wide, tall / 1.2)
    size = np.asarray([wide, max(tall, wide / 2)])
    return np.stack([middle - size / 2, middle + size / 2])


def _plane(chart: Chart, corners: Float[np.ndarray, "2 2"]) -> tuple[str, Html]:
    low, high = corners
    width, height = WIDTH, round(WIDTH * float((high - low)[1] / (high - low)[0]))
    x, y = (Axis(float(a), float(b), False, ()) for a, b in zip(low, high, strict=True))
    frame = element("rect", x=0, y=0, width=width, height=height, class_="plane")
    shapes = (_shapes(s, x, y, (0, width), (height, 0)) for s in chart.series)
    return f"0 0 {width} {height}", join(frame, *shapes)


def _axes(chart: Chart) -> tuple[str, Html]:
    band = [] if chart.band is None else [chart.band.low, chart.band.high]
    ends = [s.spread.ravel() for s in chart.series if s.spread is not None]
    x = axis_of(
        np.concatenate([s.x for s in chart.series]),
        log=chart.log_x,
        ticks=chart.x_ticks,
        margin=0.06 if chart.x_ticks else 0.0,
    )
    y = axis_of(
        np.concatenate([*(s.y for s in chart.series), *ends, np.asarray(band, float)]),
        log=chart.log_y,
    )
    across, up = (LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP)
    parts: list[Html | None] = []
    for tick in y.ticks:
        at = _at(y, tick, up)
        parts.append(element("line", x1=across[0], x2=across[1], y1=at, y2=at, class_="grid"))
        parts.append(element("text", number(tick), x=across[0] - 7, y=at, class_="y tick"))
    for tick in x.ticks:
        at = _at(x, tick, across)
        parts.append(element("line", x1=at, x2=at, y1=up[0], y2=up[0] + 4, class_="axis"))
        parts.append(element("text", number(tick), x=at, y=up[0] + 17, class_="x tick"))
    parts.append(
        element("line", x1=across[0], x2=across[1], y1=up[0], y2=up[0], class_="axis"),
    )
    middle = sum(across) / 2
    parts.append(element("text", chart.x_label, x=middle, y=HEIGHT - 6, class_="x label"))
    if chart.band is not None:
        low, high = _at(y, chart.band.low, up), _at(y, chart.band.high, up)
        rect = {"x": across[0], "width": across[1] - across[0], "y": high}
        parts.append(element("rect", **rect, height=max(_round(low - high), 1.5), class_="band"))
        parts.append(element("text", chart.band.name, x=across[1] - 4, y=high - 5, class_="named"))
    parts += [_shapes(s, x, y, across, up) for s in chart.series]
    return f"0 0 {WIDTH} {HEIGHT}", join(*parts)


Pixels = tuple[float, float]


def _at(axis: Axis, value: float, pixels: Pixels) -> float:
    return _round(pixels[0] + (pixels[1] - pixels[0]) * float(axis.place(np.asarray([value]))[0]))


def _round(value: float) -> float:
    return round(value, 1)


def _shapes(series: Series, x: Axis, y: Axis, across: Pixels, up: Pixels) -> Html:
    """A series' marks, with its name and values as the hover text of markers."""
    values = (series.x, series.y)
    if series.kind == "line" and len(series.x) > LONGEST and not np.isnan(series.y).any():
        values = tuple(_averaged(v) for v in values)
    places = [
        pixels[0] + (pixels[1] - pixels[0]) * axis.place(v)
        for axis, v, pixels in zip((x, y), values, (across, up), strict=True)
    ]
    points = np.stack([places[0] + series.shift, places[1]], axis=1).round(1)
    marks: list[Html] = []
    if series.kind == "dots":
        dots = "".join(f"M{px:g} {py:g}h0" for px, py in points if np.isfinite(px + py))
        marks.append(element("path", d=dots, class_="dots"))
    else:
        marks.append(element("path", d=_path(points), class_="line"))
    if series.spread is not None:
        for (px, _), (low, high) in zip(points, series.spread, strict=True):
            ends = (_at(y, float(low), up), _at(y, float(high), up))
            if np.isfinite(ends).all():
                marks.append(element("path", d=f"M{px:g} {ends[0]:g}V{ends[1]:g}", class_="spread"))
    if series.kind == "markers":
        for (px, py), vx, vy in zip(points, *values, strict=True):
            if np.isfinite(px + py):
                title = element("title", f"{series.name}: {number(vy, 4)} at {number(vx)}")
                marks.append(element("circle", title, cx=px, cy=py, r=4))
    return element("g", *marks, class_=series.color)


def _path(points: Float[np.ndarray, "n 2"]) -> str:
    """A line through the points, broken where one is not finite."""
    commands, pen = [], "M"
    for px, py in points:
        if not np.isfinite(px + py):
            pen = "M"
            continue
        commands.append(f"{pen}{px:g} {py:g}")
        pen = "L"
    return "".join(commands)


def _averaged(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Means of neighbors, `LONGEST` or fewer of them."""
    size = -(-len(values) // LONGEST)
    whole = len(values) // size * size
    return values[:whole].reshape(-1, size).mean(1)
