"""Stability: the parts of df/dt along the noise levels."""

from collections.abc import Sequence

from scmkit.evaluation.diagnosis import tangent_norms
from scmkit.reporting.charts import Chart, Series, draw, legend
from scmkit.reporting.markup import element, join
from scmkit.reporting.section import Section
from scmkit.reporting.subjects import Asked, Subject, with_teachers

POINTS, SAMPLES = 48, 128
LEDE = (
    "df/dt has a part through x and a part through t, as RMS norms over noisy training data at each angle "
    "t = arctan(σ/(α σ_d)): data at 0, noise at π/2. Consistency training is stable where both stay "
    "small up to the last noise level (arXiv 2410.11081, Figure 4); large Fourier scales and logarithmic "
    "noise labels make ∂f/∂t grow there."
)
PARTS = {"space": "‖∇f · dx/dt‖", "time": "‖∂f/∂t‖", "total": "‖df/dt‖"}


def section(subjects: Sequence[Subject], asked: Asked) -> Section:
    """A chart for each part and their sum."""
    listed = with_teachers(subjects)
    norms = {
        s.name: tangent_norms(s.run, points=POINTS, samples=SAMPLES, seed=asked.seed)
        for s in listed
    }
    charts = [
        draw(
            Chart(
                title,
                [
                    Series(s.name, norms[s.name].angle, getattr(norms[s.name], part), s.color)
                    for s in listed
                ],
                "angle t in radians",
                log_y=True,
            )
        )
        for part, title in PARTS.items()
    ]
    colors = legend([(s.color, s.name) for s in listed])
    body = join(colors, element("div", *charts, class_="charts"))
    return Section("Stability", LEDE, body)
