"""The commands that train, sample and report again."""

import shlex
from collections.abc import Sequence

from scmkit.reporting.markup import element, join
from scmkit.reporting.section import Section
from scmkit.reporting.subjects import Asked, Subject


def section(subjects: Sequence[Subject], asked: Asked) -> Section:
    """The commands behind the runs and this page."""
    blocks = []
    for subject in subjects:
        run, steps = shlex.quote(str(subject.run.path)), ",".join(map(str, subject.steps))
        blocks += [
            f"scmkit train --recipe {run}/recipe.json --seed {subject.run.recipe.train.seed + 1}",
            f"scmkit sample {run} --steps {subject.steps[0]} --n 64 --out samples.png",
            f"scmkit eval {run} --steps {steps}",
        ]
    blocks.append(_report(subjects, asked))
    lede = (
        "Train the same recipe with another seed, draw samples, measure them, and make this page."
    )
    return Section("Commands", lede, join(element("pre", "\n".join(blocks))))


def _report(subjects: Sequence[Subject], asked: Asked) -> str:
    words = ["scmkit", "report", *(str(s.run.path) for s in subjects)]
    if asked.steps is not None:
        words += ["--steps", ",".join(map(str, asked.steps))]
    for option in ("n", "features"):
        if getattr(asked, option) is not None:
            words += [f"--{option}", str(getattr(asked, option))]
    words += ["--seed", str(asked.seed)] if asked.seed else []
    words += [] if asked.metrics else ["--no-metrics"]
    return shlex.join(words)
