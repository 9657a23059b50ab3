"""Training a recipe: the teacher first where one is needed, then the run itself."""

import contextlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import jax.random as jr

from scmkit.composing.blame import blaming
from scmkit.composing.build import build, named_key
from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.distribution import processes
from scmkit.errors import UsageError
from scmkit.plugin import Slot
from scmkit.runs import checkpoint
from scmkit.runs.run import Run, refuse_begun
from scmkit.settings import TrainingSettings, configure
from scmkit.storage.files import make_directory, plain_path
from scmkit.training.cautions import caution
from scmkit.training.data_record import know_data, mind_pairs
from scmkit.training.estimate import announce
from scmkit.training.loop import Trainer
from scmkit.training.opening import check_recipe, opened, recover
from scmkit.training.placement import check_mesh
from scmkit.training.progress import Bar, Reporter, Silent
from scmkit.training.rehearsal import rehearse
from scmkit.training.signals import StopRequests
from scmkit.training.start import started
from scmkit.training.teacher import check_teacher, given_teacher, recorded_teacher

TEACHER = "teacher"
"""The run inside a run that holds a teacher trained along the way."""


@blaming()
def train(
    recipe: Recipe,
    *,
    out: str | Path = "runs",
    name: str | None = None,
    mesh: str | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train a recipe as a new run `OUT/NAME`; the name is made up where none is given.

    Where the recipe needs a teacher and names none, one is trained first, as a run of its own under
    `teacher/`. `mesh` is how the devices of all processes are used, such as `data=8,fsdp=8`: all for data by
    default. Raises `UsageError` if the run exists, the name is no plain directory name, or the mesh fits
    neither devices nor batch. Raises `Interrupted` or `Preempted` at Ctrl-C or SIGTERM, once everything is
    saved.
    """
    out = plain_path(out)
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"run name '{name}': use letters, digits, '.', '_' and '-' (the directory is --out)"
        )
    reporter = reporter or told_by_first()
    check_mesh(recipe, mesh)
    with StopRequests() as stop:
        if isinstance(recipe.teacher, TeacherRecord):
            check_teacher(recipe, Run.load(recipe.teacher.path))
        announce(recipe, rehearse(recipe), reporter)
        mind_pairs(recipe, reporter)
        stop.check("stopped before the run began: nothing was written")
        processes.agree("recipe", "recipe", json.dumps(recipe.to_json(), sort_keys=True))
        path = Path(processes.by_first("name", lambda: str(_place(Path(out), name, recipe))))

        def create(path: Path) -> None:
            # A start may have been killed before it wrote a recipe.
            recover(Run.create(path, recipe), reporter)

        with opened(path, reporter, create):
            return _finish(Run(path, recipe), reporter, stop, mesh)


@blaming()
def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    on_nonfinite: str | None = None,
    edited: bool = False,
    mesh: str | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Continue a run from its newest checkpoint, exactly as if it had never stopped.

    **Arguments:**

    - `steps`: the total number of steps, where it is to change.
    - `on_nonfinite`: how training answers a loss that is not finite, where that is to change.
    - `edited`: whether `recipe.json`, or that of the teacher in the run, was edited on purpose and is to be
        used as it is.
    - `mesh`: as for `train`; it may be another one than before.

    Raises `UsageError` if there is nothing left to do, and `Interrupted` or `Preempted` as `train` does.
    """
    path = plain_path(path)
    # Before locking, which would leave a file in a directory that may be no run.
    recipe = Run.load(path).recipe
    read = (TEACHER,) if isinstance(recipe.teacher, TeacherRecord) else ()
    reporter = reporter or told_by_first()

    def clear(path: Path) -> None:
        recover(Run.load(path), reporter)

    with StopRequests() as stop, opened(Path(path), reporter, clear, read):
        run = Run.load(path)
        check_mesh(run.recipe, mesh)
        if run.step and "converted" in checkpoint.metadata(checkpoint.latest(run.checkpoints)):
            raise UsageError(
                f"run '{path}' holds converted weights and no state of training; train from them with "
                f"`scmkit train --plugin scd --teacher {path}`"
            )
        check_recipe(run, edited, reporter, whole=run.path)
        before = run.recipe
        run.recipe = _continued(run, steps, on_nonfinite)
        know_data(run, reporter)
        if isinstance(run.recipe.teacher, TeacherRecord):
            recorded_teacher(run, run.recipe.teacher)
        # Plugins may have changed since the run began.
        left = rehearse(
            run.recipe, step=run.step, teacher_step=Run(run.path / TEACHER, before).step
        )
        processes.agree("recipe", "recipe", json.dumps(run.recipe.to_json(), sort_keys=True))
        # Only now, so that a refused command changes nothing.
        if run.recipe != before:
            run.write_recipe(run.recipe)
        announce(run.recipe, left, reporter, begun=True)
        return _finish(run, reporter, stop, mesh, edited)


def told_by_first() -> Reporter:
    """A bar in the first process; the others say nothing."""
    return Bar() if processes.first() else Silent()


def _continued(run: Run, steps: int | None, on_nonfinite: str | None) -> Recipe:
    """The recipe with what `resume` changes in it; raises `UsageError` where no step is left to take."""
    train = run.recipe.train
    if steps is not None and steps <= run.step:
        raise UsageError(
            f"--steps {steps}: run '{run.path}' has reached step {run.step} of {train.steps}; give a "
            f"total above {run.step}, or leave --steps out"
        )
    if run.step >= (steps or train.steps):
        raise UsageError(
            f"run '{run.path}' is finished at step {run.step}; train on with --steps N, N > {run.step}"
        )
    changed = {"steps": steps, "on_nonfinite": on_nonfinite}
    settings = {name: value for name, value in changed.items() if value is not None}
    recipe = run.recipe.replace(
        train=configure(TrainingSettings, asdict(train) | settings, "train")
    )
    before, after = (
        [stage for stage in stages if stage <= run.step]
        for stages in (run.recipe.stages, recipe.stages)
    )
    if before != after:
        # What was copied where a stage began would serve another stage.
        raise UsageError(
            f"--steps {steps}: that moves the stages of '{recipe.slots[Slot.loss]}' from "
            f"{_listed(run.recipe.stages)} to {_listed(recipe.stages)}, and step {run.step} is reached; "
            "leave --steps out, or train another run"
        )
    return recipe


def _listed(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps))


def _place(out: Path, name: str | None, recipe: Recipe) -> Path:
    """Where a new run goes; the directory is there already where its name was made up."""
    if name is not None:
        refuse_begun(out / name)  # Before locking, which leaves a file behind.
        return out / name
    while True:
        path = out / _free_name(out, recipe)
        with contextlib.suppress(FileExistsError):  # Another training has just taken this number.
            make_directory(path, exist_ok=False)
            return path


def _free_name(out: Path, recipe: Recipe) -> str:
    data = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(recipe.data.source).name).strip("-.") or "data"
    stem = f"{data}-{recipe.slots[Slot.noise]}-{recipe.slots[Slot.loss]}"
    number = 1
    while (out / f"{stem}-{number:03d}").exists():
        number += 1
    return f"{stem}-{number:03d}"


def _finish(
    run: Run,
    reporter: Reporter,
    stop: StopRequests,
    mesh: str | None,
    edited: bool = False,
) -> Run:
    """Bring a run to its end; a signal in its last step raises `Interrupted` or `Preempted` as well."""
    _advance(run, reporter, stop, mesh, edited, whole=run.path)
    stop.check(f"run '{run.path}' is finished at step {run.step}, in which the signal came")
    return run


def _advance(
    run: Run,
    reporter: Reporter,
    stop: StopRequests,
    mesh: str | None,
    edited: bool,
    *,
    whole: Path,
) -> None:
    """Bring a run, which may be the teacher inside the run `whole`, to its end from wherever it stands."""
    if run.recipe.data.digest is None:
        know_data(run, reporter)
        run.write_recipe(run.recipe)
    teacher = _teacher(run, reporter, stop, mesh, edited, whole)
    recipe = run.recipe
    key = named_key(jr.key(recipe.train.seed), "init")
    assembly = build(recipe, key=key, teacher=None if teacher is None else teacher.model)
    if teacher is not None:
        assembly = started(assembly, recipe, teacher, reporter if not run.step else Silent())
    if not run.step:
        caution(recipe, assembly, teacher, reporter)
    trainer = Trainer(run, assembly, reporter, stop, whole=whole, mesh=mesh)
    # Training has its own of their arrays.
    del assembly, teacher
    stop.check(f"stopped at step {run.step}, before another; continue with `scmkit resume {whole}`")
    trainer.train()
    with contextlib.suppress(AttributeError):
        del run.model


def _teacher(
    run: Run,
    reporter: Reporter,
    stop: StopRequests,
    mesh: str | None,
    edited: bool,
    whole: Path,
) -> Run | None:
    """The run of the teacher, trained here first if the recipe says so; None where it has none."""
    record = run.recipe.teacher
    if not isinstance(record, Recipe):
        return None if record is None else given_teacher(run, record, reporter)
    path = run.path / TEACHER

    def prepare(path: Path) -> None:
        begun = (path / "recipe.json").exists()
        recover(Run.load(path) if begun else Run.create(path, record), reporter)

    with opened(path, reporter, prepare):
        teacher = Run.load(path)
        check_recipe(teacher, edited, reporter, whole=whole)
        if not teacher.finished:
            reporter.message(
                f"'{run.recipe.slots[Slot.tangent]}' starts from a diffusion model and --teacher "
                f"names none: training one first, as {path}"
            )
            _advance(teacher, reporter, stop, mesh, edited, whole=whole)
    named = TeacherRecord(path=TEACHER, digest=teacher.digest())
    run.write_recipe(run.recipe.replace(teacher=named))
    return teacher
