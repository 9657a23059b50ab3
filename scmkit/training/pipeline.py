"""Training a recipe: the teacher first where one is needed, then the run itself."""

import contextlib
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path

import equinox as eqx
import jax.random as jr

from scmkit.composing.blame import blaming
from scmkit.composing.build import Assembly, build, named_key
from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.errors import RunError, UsageError
from scmkit.plugin import Slot
from scmkit.runs import checkpoint
from scmkit.runs.provenance import standing
from scmkit.runs.run import Run, refuse_begun
from scmkit.settings import TrainingSettings, configure
from scmkit.storage.files import make_directory, plain_path, refuse_links
from scmkit.storage.locks import DirectoryLock
from scmkit.training.data_record import compare_data, know_data
from scmkit.training.estimate import announce
from scmkit.training.loop import Trainer
from scmkit.training.progress import Bar, Reporter, Silent
from scmkit.training.rehearsal import rehearse
from scmkit.training.signals import StopRequests
from scmkit.training.start import weights_from

TEACHER = "teacher"
"""The run inside a run that holds a teacher trained along the way."""


@blaming()
def train(
    recipe: Recipe,
    *,
    out: str | Path = "runs",
    name: str | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train a recipe as a new run `OUT/NAME`; the name is made up where none is given.

    Where the recipe needs a teacher and names none, one is trained first, as a run of its own under
    `teacher/`. Raises `UsageError` if the run exists or the name is no plain directory name, and
    `Interrupted` or `Preempted` at Ctrl-C or SIGTERM, when all is saved.
    """
    out = plain_path(out)
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"run name '{name}': use letters, digits, '.', '_' and '-' (the directory is --out)"
        )
    reporter = reporter or Bar()
    with StopRequests() as stop:
        if isinstance(recipe.teacher, TeacherRecord):
            _check_teacher(recipe, Run.load(recipe.teacher.path))
        announce(recipe, rehearse(recipe), reporter)
        stop.check("stopped before the run began: nothing was written")
        if name is not None:
            refuse_begun(Path(out) / name)  # Before the lock, which leaves its file.
            with _locked(Path(out) / name, reporter):
                run = Run.create(Path(out) / name, recipe)
                _recover(run, reporter)  # A start killed before there was a recipe.
                return _finish(run, reporter, stop)
        while True:
            path = Path(out) / _free_name(Path(out), recipe)
            try:
                make_directory(path, exist_ok=False)
            except FileExistsError:
                continue  # Another process was faster: the next number is ours.
            with _locked(path, reporter):
                return _finish(Run.create(path, recipe), reporter, stop)


@blaming()
def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    on_nonfinite: str | None = None,
    edited: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Continue a run from its newest checkpoint, exactly as if it had never stopped.

    `steps` changes how many there are in all, `on_nonfinite` what is done at a fault. `edited` says that
    `recipe.json`, the teacher's in the run too, was edited on purpose and is to be used as it is.
    Raises `UsageError` if there is nothing left to do, and `Interrupted` or `Preempted` as `train` does.
    """
    path = plain_path(path)
    # Before the lock, which would leave its file in what is no run.
    recipe = Run.load(path).recipe
    read = (TEACHER,) if isinstance(recipe.teacher, TeacherRecord) else ()
    reporter = reporter or Bar()
    with StopRequests() as stop, _locked(Path(path), reporter, read):
        run = Run.load(path)
        _recover(run, reporter)
        if run.step and "converted" in checkpoint.metadata(checkpoint.latest(run.checkpoints)):
            raise UsageError(
                f"run '{path}' holds converted weights and no state of training; train from them with "
                f"`scmkit train --plugin scd --teacher {path}`"
            )
        _check_recipe(run, edited, reporter, whole=run.path)
        before, changed = run.recipe, {"steps": steps, "on_nonfinite": on_nonfinite}
        settings = {name: value for name, value in changed.items() if value is not None}
        run.recipe = before.replace(
            train=configure(TrainingSettings, asdict(before.train) | settings, "train")
        )
        if steps is not None and steps <= run.step:
            raise UsageError(
                f"--steps {steps}: run '{path}' has reached step {run.step} of {before.train.steps}; give a "
                f"total above {run.step}, or leave --steps out"
            )
        if run.finished:
            raise UsageError(
                f"run '{path}' is finished at step {run.step}; train on with --steps N, N > {run.step}"
            )
        know_data(run, reporter)
        if isinstance(run.recipe.teacher, TeacherRecord):
            _recorded_teacher(run, run.recipe.teacher)
        # Plugins may be others than when it began.
        left = rehearse(
            run.recipe, step=run.step, teacher_step=Run(run.path / TEACHER, before).step
        )
        # Only now: what is refused changes nothing.
        if run.recipe != before:
            run.write_recipe(run.recipe)
        announce(run.recipe, left, reporter, begun=True)
        return _finish(run, reporter, stop, edited)


@contextlib.contextmanager
def _locked(path: Path, reporter: Reporter, read: Collection[str] = ()) -> Iterator[None]:
    """Hold a run's directory, made if need be, against other processes.

    Raises `RunError` where something in it is a link out of it, but those names that are only `read`.
    """
    refuse_links(path, but=read)
    make_directory(path)
    with DirectoryLock(path) as lock:
        if not lock.held:
            reporter.message(
                f"the file system of '{path}' has no locks: see that no other process trains there"
            )
        yield


def _recover(run: Run, reporter: Reporter) -> None:
    """Remove what a crash left half written, and set aside what is damaged."""
    for name in ("recipe.json", "metrics.jsonl", "samples/[0-9]*.png", "nonfinite/[0-9]*.json"):
        for path in run.path.glob(f"{name}.*.tmp"):
            with contextlib.suppress(OSError):
                path.unlink()
    for line in checkpoint.recover(run.checkpoints, keep=run.recipe.train.keep):
        reporter.message(line)


def _free_name(out: Path, recipe: Recipe) -> str:
    data = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(recipe.data.source).name).strip("-.") or "data"
    stem = f"{data}-{recipe.slots[Slot.noise]}-{recipe.slots[Slot.loss]}"
    number = 1
    while (out / f"{stem}-{number:03d}").exists():
        number += 1
    return f"{stem}-{number:03d}"


def _check_recipe(run: Run, edited: bool, reporter: Reporter, *, whole: Path) -> None:
    """Raises `UsageError` for a recipe that somebody has edited, unless `edited` says that it is meant.

    Then, and where it is another than that of the newest checkpoint, a line says what is.
    """
    found, file = standing(run.path), run.path / "recipe.json"
    if found.edited and not edited:
        raise UsageError(
            f"'{file}' was {found.how}; if that is meant, `scmkit resume {whole} --edited`, else restore it"
        )
    if found.edited:
        reporter.message(f"'{file}' is used as it is, but was {found.how}")
    elif found.told:
        reporter.message(f"'{file}' differs from the newest checkpoint's recipe: {found.told}")
    if not found.sealed:
        run.write_recipe(run.recipe)


def _finish(run: Run, reporter: Reporter, stop: StopRequests, edited: bool = False) -> Run:
    """Bring a run to its end; a signal that came too late to stop it is answered as well."""
    _advance(run, reporter, stop, edited, whole=run.path)
    stop.check(f"run '{run.path}' is finished at step {run.step}, in which the signal came")
    return run


def _advance(
    run: Run, reporter: Reporter, stop: StopRequests, edited: bool, *, whole: Path
) -> None:
    """Bring a run, or the teacher in the run `whole`, to its end from wherever it is."""
    if run.recipe.data.digest is None:
        know_data(run, reporter)
        run.write_recipe(run.recipe)
    teacher = _teacher(run, reporter, stop, edited, whole)
    recipe = run.recipe
    key = named_key(jr.key(recipe.train.seed), "init")
    assembly = build(recipe, key=key, teacher=None if teacher is None else teacher.model)
    if teacher is not None:
        assembly = _started(assembly, recipe, teacher, reporter if not run.step else Silent())
    trainer = Trainer(run, assembly, reporter, stop, whole=whole)
    stop.check(f"stopped at step {run.step}, before another; continue with `scmkit resume {whole}`")
    trainer.train()
    with contextlib.suppress(AttributeError):
        del run.model


def _started(assembly: Assembly, recipe: Recipe, teacher: Run, reporter: Reporter) -> Assembly:
    """The modules with the teacher's weights in the model, and in the players that start from it."""
    weights = weights_from(teacher.model, assembly.model)
    if weights is None:
        reporter.message(
            f"teacher '{teacher.path}' has another network or parameterization: "
            "the model starts from fresh weights"
        )
    else:
        assembly = eqx.tree_at(lambda a: a.model, assembly, weights)
    for name, player in recipe.players.items():
        if player.model is not None or player.start == "fresh":
            continue
        module, loss = assembly.players[name]
        weights = weights_from(teacher.model, module)
        if weights is None:
            reporter.message(f"player '{name}' starts from fresh weights, as the model does")
        else:
            players = assembly.players | {name: (weights, loss)}
            assembly = eqx.tree_at(lambda a: a.players, assembly, players)
    return assembly


def _teacher(
    run: Run, reporter: Reporter, stop: StopRequests, edited: bool, whole: Path
) -> Run | None:
    """The run of the teacher, trained here first if the recipe says so."""
    record = run.recipe.teacher
    if isinstance(record, Recipe):
        path = run.path / TEACHER
        with _locked(path, reporter):
            begun = (path / "recipe.json").exists()
            teacher = Run.load(path) if begun else Run.create(path, record)
            _recover(teacher, reporter)
            _check_recipe(teacher, edited, reporter, whole=whole)
            if not teacher.finished:
                reporter.message(
                    f"'{run.recipe.slots[Slot.tangent]}' starts from a diffusion model and --teacher "
                    f"names none: training one first, as {path}"
                )
                _advance(teacher, reporter, stop, edited, whole=whole)
        record = TeacherRecord(path=TEACHER, digest=teacher.digest())
        run.write_recipe(run.recipe.replace(teacher=record))
        return teacher
    if record is None:
        return None
    teacher, digest = _recorded_teacher(run, record)
    if not run.step:
        compare_data(run, teacher, reporter)
    run.write_recipe(run.recipe.replace(teacher=TeacherRecord(record.path, digest)))
    return teacher


def _recorded_teacher(run: Run, record: TeacherRecord) -> tuple[Run, str]:
    """The teacher that a recipe names and its digest; raises where it is not what it was."""
    # A teacher inside the run is recorded relative to it, so that the run can be moved.
    teacher = Run.load(run.path / record.path)
    _check_teacher(run.recipe, teacher)
    digest = teacher.digest()
    if record.digest not in (None, digest):
        raise RunError(
            f"teacher '{record.path}' has changed since this run began (its checkpoint's digest is "
            f"{digest[:12]}, the recipe says {record.digest[:12]}); restore it, or start a new run"
        )
    return teacher, digest


def _check_teacher(recipe: Recipe, teacher: Run) -> None:
    ours, theirs = recipe.data, teacher.recipe.data
    if not teacher.step:
        raise UsageError(
            f"teacher '{teacher.path}' has no checkpoint yet; finish it with `scmkit resume {teacher.path}`"
        )
    for what in ("shape", "num_classes", "sigma_data", "shift", "scale"):
        mine, its = getattr(ours, what), getattr(theirs, what)
        if mine != its:
            raise UsageError(
                f"teacher '{teacher.path}' was trained on data of {what} {its}, this run's is {mine}; "
                f"use the data it was trained on ('{theirs.source}')"
            )
    if ours.digest and theirs.digest and ours.digest.class_names != theirs.digest.class_names:
        raise UsageError(
            f"teacher '{teacher.path}' was trained on data of other classes: "
            f"{next(theirs.digest.differences(ours.digest))}; use the data it was trained on "
            f"('{theirs.source}')"
        )
