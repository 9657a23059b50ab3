"""Samples beside the training data closest to them."""

from collections.abc import Sequence

import numpy as np

from scmkit.reporting.markup import Html, element, join
from scmkit.reporting.neighbors import SEARCHED, nearest
from scmkit.reporting.pictures import tile
from scmkit.reporting.section import Missing, Section
from scmkit.reporting.subjects import Asked, Subject, in_steps

SHOWN, COMPARED = 12, 256
LEDE = (
    "Samples, and below each the training image closest to it in pixels, with their RMS distance. A model "
    "that copies is far closer than test images, which it has never seen, are."
)


def section(subjects: Sequence[Subject], asked: Asked) -> Section:
    """A strip of pairs for each run."""
    images = [s for s in subjects if s.is_image]
    if not images:
        raise Missing("pairs are shown for images; for vectors the metric near-copies counts them")
    strips = [
        join(element("h3", s.name) if len(subjects) > 1 else None, _strip(s, asked)) for s in images
    ]
    return Section("Nearest neighbors", LEDE, join(*strips))


def _strip(subject: Subject, asked: Asked) -> Html:
    steps = subject.steps[-1] if subject.is_diffusion else subject.steps[0]
    x = subject.drawn(steps)
    x = x[np.linspace(0, len(x) - 1, SHOWN).astype(int)]
    dataset = subject.dataset
    index, distance = nearest(x, dataset, seed=asked.seed)
    closest = dataset.read("train", index)[0]
    test = dataset.read("test", np.arange(min(COMPARED, dataset.size("test"))))[0]
    typical = np.quantile(nearest(test, dataset, seed=asked.seed)[1], [0.05, 0.5])
    pairs = [
        element(
            "div",
            tile(sample, f"sample {i + 1}"),
            tile(neighbor, f"its nearest training image, number {number}"),
            element("small", f"{apart:.3f}"),
        )
        for i, (sample, neighbor, number, apart) in enumerate(
            zip(x, closest, index, distance, strict=True)
        )
    ]
    searched = f" Of the training images {SEARCHED} were searched."
    note = (
        f"In {in_steps(steps)}. Test images are {typical[1]:.3f} from their nearest "
        f"training image in the median, and one in twenty is closer than {typical[0]:.3f}."
        + (searched if dataset.size("train") > SEARCHED else "")
    )
    return join(element("div", *pairs, class_="pairs"), element("p", note, class_="note"))
