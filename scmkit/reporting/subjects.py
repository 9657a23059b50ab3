"""The subjects of a report: runs, each with its teacher where that is at hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.composing.build import build_free
from scmkit.composing.datasets import dataset_of
from scmkit.composing.recipe import TeacherRecord
from scmkit.errors import UsageError
from scmkit.interfaces import (
    UNCONDITIONED,
    AbstractDataset,
    AbstractSampler,
    Conditioning,
    DataSpec,
)
from scmkit.plugin import Slot
from scmkit.reporting.charts import color_of
from scmkit.runs.run import Run
from scmkit.sampling import class_captions, draw

COLUMNS, ROWS, VECTORS = 8, 10, 1500
"""Images in a grid across and, at the most, down; the number of vectors."""


@dataclass(frozen=True)
class Asked:
    """The options of a report; None leaves the choice to it."""

    steps: tuple[int, ...] | None = None
    n: int | None = None
    features: str | None = None
    seed: int = 0
    metrics: bool = True


@dataclass
class Subject:
    """A run under a name and a color of its own, with its teacher if there is one."""

    name: str
    run: Run
    color: str
    asked: Asked
    teacher: "Subject | None" = None
    _drawn: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def data(self) -> DataSpec:
        """The run's data."""
        return self.run.recipe.data

    @property
    def is_image(self) -> bool:
        """Whether a sample can be shown as a picture."""
        return len(self.data.shape) == 3 and self.data.clip

    @property
    def is_diffusion(self) -> bool:
        """Whether the run is a diffusion model, with an ODE of its own."""
        return self.run.recipe.makes == "diffusion"

    @cached_property
    def dataset(self) -> AbstractDataset:
        """The run's data set; raises `DataError` where it has gone."""
        return dataset_of(self.run.recipe)

    @cached_property
    def sampler(self) -> AbstractSampler:
        """The run's sampler, with its recorded options."""
        recipe = self.run.recipe
        config = recipe.plugins[recipe.sampler].config
        return build_free(Slot.sampler, recipe.reference(recipe.sampler), config)

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of sampling steps to show: those asked for, else some around the usual ones."""
        if self.asked.steps is not None:
            return self.asked.steps
        usual = self.sampler.usual_steps
        return (usual[0] // 4, usual[0] // 2, usual[0]) if usual[0] >= 8 else (1, 2, 4)

    @property
    def rows(self) -> int:
        """The number of rows of `COLUMNS` images in a grid: one for each class, of many a few."""
        return min(self.data.num_classes, ROWS) or COLUMNS

    @property
    def noise(self) -> Float[Array, "n *shape"]:
        """Unit noise of every picture: the same for all runs on data of one shape."""
        n = COLUMNS * self.rows if self.is_image else VECTORS
        return jr.normal(jr.key(self.asked.seed), (n, *self.data.shape), jnp.float32)

    @property
    def cond(self) -> Conditioning:
        """The class of each sample, a row of the grid each."""
        classes, n = self.data.num_classes, len(self.noise)
        if not classes:
            return UNCONDITIONED
        return Conditioning(
            jnp.arange(n, dtype=jnp.int32) // -(-n // self.rows) * classes // self.rows
        )

    @property
    def captions(self) -> list[str] | None:
        """The class of each sample, by its name if it has one."""
        label = None if self.cond is None else self.cond.label
        if label is None:
            return None
        return class_captions(np.asarray(label).tolist(), self.data.class_names)

    def drawn(self, steps: int) -> Float[np.ndarray, "n *shape"]:
        """The samples that `noise` leads to, in the data's units; drawn once."""
        if steps not in self._drawn:
            model, key = self.run.model, jr.key(self.asked.seed)
            start = model.process.sigma(model.process.t_max) * self.noise
            out = draw(model, self.sampler, start, self.cond, steps=steps, key=key)
            self._drawn[steps] = self.data.denormalize(np.asarray(out.x))
        return self._drawn[steps]

    def shown(self, steps: int) -> str:
        """The caption of samples in `steps` steps."""
        return f"{self.name}: {self.run.recipe.sampler}, {in_steps(steps)}"

    def reference(self, n: int) -> Float[np.ndarray, "m d"]:
        """`n` test samples as vectors, or all if they are fewer."""
        raw, _ = self.dataset.read("test", np.arange(min(n, self.dataset.size("test"))))
        return raw.reshape(len(raw), -1)


def subjects_of(paths: Sequence[str | Path], asked: Asked) -> list[Subject]:
    """The runs at `paths`; raises `UsageError` for one that is missing, untrained, or named twice."""
    found: list[Subject] = []
    for path in paths:
        run = Run.load(path)
        if not run.step:
            raise UsageError(f"run '{path}' has no checkpoint yet: `scmkit resume {path}` first")
        if any(run.path.resolve() == s.run.path.resolve() for s in found):
            raise UsageError(f"run '{path}' is named twice")
        color = color_of(len(found))
        found.append(Subject(run.path.resolve().name, run, color, asked))
    names = [s.name for s in found]
    for subject in found:
        if names.count(subject.name) > 1:
            subject.name = str(subject.run.path)
    _find_teachers(found, asked)
    return found


def _find_teachers(found: list[Subject], asked: Asked) -> None:
    """Give each run its teacher, one subject for runs that share it; those that are gone stay None."""
    known = {s.run.path.resolve(): s for s in found}
    for subject in list(found):
        record = subject.run.recipe.teacher
        if not isinstance(record, TeacherRecord):
            continue
        path = (subject.run.path / record.path).resolve()
        if path not in known:
            if not (path / "recipe.json").is_file():
                continue
            run = Run.load(subject.run.path / record.path)
            if not run.step:
                continue
            name = f"{subject.name}, teacher"
            plain = Asked(n=asked.n, features=asked.features, seed=asked.seed)
            known[path] = Subject(name, run, color_of(len(known)), plain)
        subject.teacher = known[path]


def in_steps(steps: int) -> str:
    """`"1 step"`, `"2 steps"`."""
    return f"{steps} step{'s' if steps > 1 else ''}"


def with_teachers(subjects: Sequence[Subject]) -> list[Subject]:
    """The runs, each followed by its teacher if that is not listed yet."""
    pairs = [one for s in subjects for one in (s, s.teacher) if one is not None]
    return list({id(one): one for one in pairs}.values())
