"""Trajectories: the PF-ODE against the student's jumps from the same noise."""

import json
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from scmkit.reporting.charts import Chart, Series, draw, extent, legend
from scmkit.reporting.markup import Html, element, join
from scmkit.reporting.paths import Paths, pf_ode_paths
from scmkit.reporting.pictures import tile
from scmkit.reporting.section import Missing, Section
from scmkit.reporting.subjects import Asked, Subject, in_steps

STRIPS, FRAMES, POINTS = 5, 8, 61
MOVING, EVERY = 400, 5
"""Vectors in the animation, and how many of them stand for one whole path."""
JUMPS = 2
"""Numbers of steps whose jumps are shown."""
WIDTH = 1000
"""Positions in the animation are whole numbers from 0 to this across, and as far as it takes down."""
LEDE = (
    "A diffusion model follows its probability-flow ODE from noise to data in many small steps; a "
    "consistency model jumps to where that path ends. Both start from the same noise here, so a perfect "
    "student lands on the path's end. Time runs from t = π/2 (noise) to 0 (data), and states are shown in "
    "TrigFlow's scale."
)


def section(subjects: Sequence[Subject], asked: Asked) -> Section:
    """For each run with an ODE, its own or its teacher's: film strips, an animation, or curves."""
    some = [s for s in subjects if s.is_diffusion or s.teacher is not None]
    if not some:
        raise Missing("no run here is a diffusion model, and none has its teacher at hand")
    parts = [join(element("h3", s.name) if len(subjects) > 1 else None, _part(s)) for s in some]
    return Section("Trajectories", LEDE, join(*parts))


def _part(subject: Subject) -> Html:
    noise, cond = subject.noise, subject.cond
    shown = STRIPS if subject.is_image else MOVING
    some = np.arange(shown) * len(noise) // shown  # Of every class some.
    noise, cond = jax.tree.map(lambda a: a[some], (noise, cond))
    source = subject if subject.is_diffusion else subject.teacher
    assert source is not None
    model = source.run.model
    ratio_max = subject.run.model.process.ratio_max
    paths = pf_ode_paths(model, noise, cond, points=POINTS, ratio_max=ratio_max)
    jumps = {}
    if not subject.is_diffusion:
        # A jump with fresh noise on the way ends elsewhere; pictures show it, distances would mean nothing.
        for steps in subject.steps[:JUMPS]:
            if subject.is_image or subject.sampler.deterministic(steps):
                jumps[steps] = subject.drawn(steps)[some]
    if subject.is_image:
        return _film(subject, source, paths, jumps)
    flat = _in_data_units(source, paths)
    ends = {k: v.reshape(len(some), -1) for k, v in jumps.items()}
    if flat.shape[-1] == 1:
        return _curves(subject, paths.angle, flat, ends)
    return _plane(subject, paths.angle, flat, ends)


def _in_data_units(subject: Subject, paths: Paths) -> Float[np.ndarray, "points n d"]:
    points, n = paths.states.shape[:2]
    raw = subject.data.denormalize(paths.states.reshape(points * n, *subject.data.shape))
    return raw.reshape(points, n, -1)


def _film(
    subject: Subject,
    source: Subject,
    paths: Paths,
    jumps: dict[int, Float[np.ndarray, "n c h w"]],
) -> Html:
    """For each noise a row of states, a row of predictions, and the jumps beside them."""
    frames = np.linspace(0, len(paths.angle) - 1, FRAMES).round().astype(int)
    heads = [element("th", f"t = {paths.angle[i]:.2f}", scope="col") for i in frames]
    heads += [element("th", f"student, {in_steps(k)}", scope="col", class_="jump") for k in jumps]
    data = source.data
    states, denoised = (
        np.stack([data.denormalize(a[i]) for i in frames]) for a in (paths.states, paths.denoised)
    )
    rows = []
    for sample in range(states.shape[1]):
        ends = []
        for steps, x in jumps.items():
            apart = float(np.sqrt(np.mean((x[sample] - states[-1, sample]) ** 2)))
            exact = subject.sampler.deterministic(steps)
            miss = element("small", f"RMS {apart:.2f}" if exact else "fresh noise")
            cell = (tile(x[sample], f"{steps}-step jump"), miss)
            ends.append(element("td", *cell, rowspan=2, class_="jump"))
        upper = [element("td", tile(x, "state")) for x in states[:, sample]]
        lower = [element("td", tile(x, "prediction")) for x in denoised[:, sample]]
        rows.append(element("tr", element("th", "state", scope="row"), *upper, *ends))
        rows.append(element("tr", element("th", "prediction", scope="row"), *lower, class_="last"))
    head = element("thead", element("tr", element("td"), *heads))
    film = element("table", head, element("tbody", *rows), class_="film")
    note = f"States of {source.name} along the ODE, and below each the image its model expects from there."
    if jumps:
        note += (
            " Below a jump stands its distance to the last state; where a step adds fresh noise, it may "
            "end in another image."
        )
    return join(element("div", film, class_="scroll"), element("p", note, class_="note"))


def _curves(
    subject: Subject,
    angle: Float[np.ndarray, " points"],
    paths: Float[np.ndarray, "points n 1"],
    ends: dict[int, Float[np.ndarray, "n 1"]],
) -> Html:
    """One-dimensional paths over time."""
    some = paths[:, ::EVERY, 0].T
    broken = np.full((len(some), 1), np.nan)
    x = np.concatenate([np.tile(-angle, (len(some), 1)), broken], axis=1).ravel()
    y = np.concatenate([some, broken], axis=1).ravel()
    series = [Series("PF-ODE", x, y, "gray")]
    for i, (steps, end) in enumerate(ends.items()):
        at = np.full(len(some), -float(angle[-1]) + 0.03 * (i + 1))
        name = f"student, {in_steps(steps)}"
        series.append(Series(name, at, end[::EVERY, 0], f"c{i}", "dots"))
    chart = Chart(subject.name, series, "−t, from noise to data", log_y=False)
    entries = [(s.color, s.name) for s in series]
    return join(legend(entries), element("div", draw(chart), class_="charts"))


def _plane(
    subject: Subject,
    angle: Float[np.ndarray, " points"],
    paths: Float[np.ndarray, "points n d"],
    ends: dict[int, Float[np.ndarray, "n d"]],
) -> Html:
    """The flow in the plane of the first two coordinates: an animation, and the whole paths beside it."""
    more = paths.shape[-1] > 2
    paths, ends = paths[..., :2], {k: v[:, :2] for k, v in ends.items()}
    reference = subject.reference(MOVING * 2)[:, :2]
    corners = extent(np.concatenate([paths.reshape(-1, 2), reference]))
    low, high = corners
    scale = WIDTH / (high - low)[0]
    size = np.round((high - low) * scale).astype(int)

    def placed(points: Float[np.ndarray, "n 2"]) -> list[int]:
        offset = np.stack([points[:, 0] - low[0], high[1] - points[:, 1]], axis=1)
        return np.clip(np.round(offset * scale), 0, size).astype(int).ravel().tolist()

    content = {
        "times": [round(float(a), 3) for a in angle],
        "reference": placed(reference),
        "frames": [placed(frame) for frame in paths],
        "ends": {str(k): placed(v) for k, v in ends.items()},
    }
    # In a script element only "<" could end the data early.
    raw = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    controls = element(
        "div",
        element("button", "Play", type="button", class_="play"),
        element(
            "input", type="range", min=0, max=len(angle) - 1, value=len(angle) - 1, step=1,
            aria_label="time",
        ),
        element("output", ""),
        class_="controls",
    )  # fmt: skip
    label = f"{subject.name}: the PF-ODE's flow"
    moving = element(
        "figure",
        element("figcaption", label),
        element("canvas", width=size[0], height=size[1], role="img", aria_label=label),
        controls,
        element("script", Html(raw), type="application/json"),
        class_="flow chart",
    )
    entries = [("gray", "test data"), ("c0", "PF-ODE")]
    entries += [(f"c{i + 1}", f"student, {in_steps(k)}") for i, k in enumerate(ends)]
    still = [
        Series("test data", *reference.T, color="gray", kind="dots"),
        Series("PF-ODE", *_joined(paths[:, ::EVERY]), color="c0"),
    ]
    for i, (steps, end) in enumerate(ends.items()):
        still.append(Series(str(steps), *end[::EVERY].T, color=f"c{i + 1}", kind="dots"))
    charts = [moving, draw(Chart(f"{MOVING // EVERY} whole paths", still, plane=corners))]
    for i, (steps, end) in enumerate(ends.items()):
        error = np.sqrt(((end - paths[-1]) ** 2).sum(1))
        title = f"path's end to {steps}-step jump: median {np.median(error):.3g}"
        pairs = np.stack([paths[-1], end])
        misses = [
            still[0],
            Series("miss", *_joined(pairs), color=f"c{i + 1}"),
            Series("jump", *end.T, color=f"c{i + 1}", kind="dots"),
        ]
        charts.append(draw(Chart(title, misses, plane=extent(np.concatenate([reference, *pairs])))))
    note = "Only the first two coordinates are shown." if more else None
    return join(
        legend(entries),
        element("div", *charts, class_="charts"),
        element("p", note, class_="note") if note else None,
    )


def _joined(paths: Float[np.ndarray, "points n 2"]) -> tuple[np.ndarray, np.ndarray]:
    """Many paths as one broken line."""
    broken = np.concatenate([paths, np.full((1, *paths.shape[1:]), np.nan)])
    flat = broken.transpose(1, 0, 2).reshape(-1, 2)
    return flat[:, 0], flat[:, 1]
