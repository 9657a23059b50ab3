"""Runs: a directory that holds everything one training produced."""

import contextlib
from functools import cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from scmkit.composing.build import build_model
from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.composing.recipe_file import read_run_recipe
from scmkit.distribution import processes
from scmkit.errors import CheckpointError, OptionError, UsageError
from scmkit.models.model import Model
from scmkit.runs import checkpoint
from scmkit.runs.arrays import is_saved, named_leaves
from scmkit.runs.metrics import read_metrics
from scmkit.runs.provenance import sealed_text, standing
from scmkit.runs.verification import Check, verify_run
from scmkit.storage.files import make_directory, plain_path, write_text
from scmkit.storage.finite import not_finite
from scmkit.storage.locks import LOCK
from scmkit.terminal import say


class Run:
    """`recipe.json`, `metrics.jsonl`, `checkpoints/STEP/`, `samples/` and, where one was trained, `teacher/`.

    **Attributes:**

    - `path`: the directory.
    - `recipe`: what the run is made from.
    - `model`: the averaged model of the newest checkpoint, what samples are drawn from. Loading it needs
        neither the data nor the teacher.
    """

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = plain_path(path)
        self.recipe = recipe

    @staticmethod
    def create(path: Path, recipe: Recipe) -> "Run":
        """A new run directory, or one that a crash left before it had a recipe.

        Raises `UsageError` if the path is taken, `RunError` if it cannot be written.
        """
        refuse_begun(path)
        make_directory(path)
        run = Run(path, recipe)
        run.write_recipe(recipe)
        return run

    @staticmethod
    def load(path: str | Path) -> "Run":
        """The run at `path`; raises `UsageError` if there is none."""
        return Run(Path(path), read_run_recipe(Path(path)))

    def write_recipe(self, recipe: Recipe) -> None:
        """Replace the recipe, atomically, with the digest of its values beside them.

        Of several processes, all of which have the same recipe, the first one writes it.
        """
        if processes.first():
            write_text(self.path / "recipe.json", sealed_text(recipe))
        self.recipe = recipe

    def verify(self) -> list[Check]:
        """The state of everything in the run that can be checked, its teacher's too."""
        return verify_run(self.path)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def step(self) -> int:
        """The step of the newest checkpoint; 0 before the first."""
        return max(checkpoint.steps(self.checkpoints), default=0)

    @property
    def finished(self) -> bool:
        """Whether the newest checkpoint is the last one asked for."""
        return self.step >= self.recipe.train.steps

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return read_metrics(self.path / "metrics.jsonl")

    def digest(self) -> str:
        """The digest of the newest checkpoint."""
        return checkpoint.of_latest(self.checkpoints, checkpoint.digest)

    @cached_property
    def model(self) -> Model:
        """The averaged model of the newest checkpoint; raises `CheckpointError`, for NaN in it too.

        Says so on stderr where the recipe it is built from was edited.
        """
        with contextlib.suppress(OSError, ValueError, OptionError):
            found = standing(self.path)
            if found.edited:
                say(f"'{self.path / 'recipe.json'}' is used as it is, but was {found.how}")
        with jax.ensure_compile_time_eval():  # Also where a plugin reads a run inside a trace.
            model = self.read_model()
        arrays = ((name, np.asarray(a)) for name, a in named_leaves(model) if is_saved(a))
        if problem := not_finite(arrays):
            raise CheckpointError(
                f"{checkpoint.latest(self.checkpoints)} is as it was written, and its model has {problem}: "
                "nothing can come of it; take an earlier checkpoint, or train or convert again"
            )
        return model

    def read_model(self) -> Model:
        """`model`, whatever its weights are."""
        return checkpoint.of_latest(self.checkpoints, self._model_at)

    def _model_at(self, latest: Path) -> Model:
        skeleton = eqx.filter_eval_shape(build_model, self.recipe, key=jr.key(0))
        try:
            return checkpoint.restore(latest, skeleton, prefix="players/generator/ema")
        except CheckpointError as error:
            known = [
                self.checkpoints / f"{step:08d}" for step in checkpoint.steps(self.checkpoints)
            ]
            if checkpoint.problem(latest) is None or all(map(checkpoint.problem, known)):
                raise
            raise CheckpointError(
                f"{error}, and `scmkit resume {self.path}` goes on from there"
            ) from error

    @property
    def diffusion_model(self) -> Model:
        """`model`, where it has a PF-ODE, as diffusion models and flow maps have; raises `UsageError`."""
        if self.recipe.makes not in ("diffusion", "flow-map"):
            teacher = self.teacher
            other = "" if teacher is None else f", but its teacher has: {teacher}"
            raise UsageError(
                f"'{self.path}' is a {self.recipe.makes} model, which has no probability-flow ODE{other}"
            )
        return self.model

    @property
    def consistency_model(self) -> Model:
        """`model`, where it maps to the data, as consistency models and flow maps do; raises `UsageError`."""
        if self.recipe.makes not in ("consistency", "flow-map"):
            raise UsageError(
                f"'{self.path}' is a {self.recipe.makes} model, and this takes a consistency model: distil "
                f"it with `scmkit train --plugin scd --teacher {self.path}`"
            )
        return self.model

    @property
    def teacher(self) -> Path | None:
        """Where the run's teacher is; None without one."""
        record = self.recipe.teacher
        return self.path / record.path if isinstance(record, TeacherRecord) else None


def refuse_begun(path: Path) -> None:
    """Raises `UsageError` if anything is at `path` but what a run has before its recipe."""
    entries = path.iterdir() if path.is_dir() else ()
    if (path.exists() and not path.is_dir()) or not all(
        _before_the_recipe(entry.name) for entry in entries
    ):
        raise UsageError(
            f"run '{path}' exists; continue it with `scmkit resume {path}`, or choose another --name"
        )


def _before_the_recipe(name: str) -> bool:
    return name == LOCK or (name.startswith("recipe.json.") and name.endswith(".tmp"))
