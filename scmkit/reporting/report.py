"""A report on runs: gathers every section and makes the page."""

from collections.abc import Callable, Sequence
from pathlib import Path

from scmkit.composing.blame import blaming
from scmkit.errors import ScmkitError
from scmkit.plugin import Slot
from scmkit.reporting.markup import element
from scmkit.reporting.page import page
from scmkit.reporting.section import Missing, Section
from scmkit.reporting.sections import (
    commands,
    curves,
    flow,
    metrics,
    neighbors,
    overview,
    samples,
    stability,
)
from scmkit.reporting.subjects import Asked, Subject, subjects_of

SECTIONS = {
    "Recipe": overview.section,
    "Samples": samples.section,
    "Trajectories": flow.section,
    "Metrics": metrics.section,
    "Training": curves.section,
    "Stability": stability.section,
    "Nearest neighbors": neighbors.section,
    "Commands": commands.section,
}
"""The sections of a report, in their order."""


def report(
    runs: Sequence[str | Path],
    *,
    steps: Sequence[int] | None = None,
    n: int | None = None,
    features: str | None = None,
    seed: int = 0,
    metrics: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> str:
    """One HTML page about runs, side by side, that needs nothing but itself.

    `steps` are the numbers of sampling steps of the runs (their teachers keep theirs), `n`, `features` and
    `seed` go to `evaluate`, which `metrics` of False leaves out. A section that has nothing to show says why.
    The same runs give the same page, but for measured times and memory. Raises `UsageError`.
    """
    chosen = None if steps is None else tuple(steps)
    asked = Asked(steps=chosen, n=n, features=features, seed=seed, metrics=metrics)
    subjects = subjects_of(runs, asked)
    sections = []
    for title, section in SECTIONS.items():
        progress(f"{title} ...")
        try:
            with blaming():
                sections.append(section(subjects, asked))
        except (Missing, ScmkitError) as reason:
            absent = element("p", f"Left out: {reason}.", class_="note missing")
            sections.append(Section(title, "", absent))
    what = [f"{s.name}: {_method(s)}" for s in subjects]
    return page(" · ".join(s.name for s in subjects), "; ".join(what) + ".", sections)


def _method(subject: Subject) -> str:
    slots = subject.run.recipe.slots
    names = dict.fromkeys(slots[slot] for slot in (Slot.noise, Slot.network, Slot.loss))
    return f"{', '.join(names)} on {subject.data.source}, step {subject.run.step}"
