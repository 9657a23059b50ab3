"""Whether everything in a run is as it was written."""

from dataclasses import dataclass
from pathlib import Path

from scmkit.errors import ScmkitError
from scmkit.recipe import Recipe, TeacherRecord, read_run_recipe
from scmkit.training import checkpoint
from scmkit.training.metrics_file import read_lines


@dataclass(frozen=True)
class Check:
    """One part of a run, and what is wrong with it.

    **Attributes:**

    - `what`: `recipe`, `metrics`, `checkpoint` or `teacher`.
    - `path`: where it is.
    - `step`: of a checkpoint; None for the others.
    - `problem`: what is wrong, naming the file; None if it is good.
    - `size`: in bytes.
    """

    what: str
    path: str
    step: int | None
    problem: str | None
    size: int


def verify_run(path: Path) -> list[Check]:
    """Check recipe, metrics and every byte of every checkpoint of the run at `path`, and its teacher's.

    Of checkpoints that are as they were written, NaN and infinity in their arrays are a problem too.

    Raises `UsageError` if there is no such directory.
    """
    recipe, problem = None, None
    try:
        recipe = read_run_recipe(path)
    except ScmkitError as error:
        if not path.is_dir():
            raise
        problem = str(error)
    checks = [_check("recipe", path / "recipe.json", problem)]
    metrics = path / "metrics.jsonl"
    if metrics.exists():
        checks.append(_check("metrics", metrics, _metrics_problem(metrics)))
    for folder in sorted((path / "checkpoints").glob("*")):
        digits = folder.name.removeprefix(checkpoint.DAMAGED)
        if folder.is_dir() and digits.isdecimal():
            problem = checkpoint.problem(folder) or checkpoint.not_finite(folder)
            checks.append(_check("checkpoint", folder, problem, int(digits)))
    return checks + _teacher_checks(path, recipe)


def _teacher_checks(path: Path, recipe: Recipe | None) -> list[Check]:
    record = None if recipe is None else recipe.teacher
    if isinstance(record, Recipe):
        teacher = path / "teacher"
        return verify_run(teacher) if teacher.is_dir() else []
    if not isinstance(record, TeacherRecord):
        return []
    teacher = path / record.path
    try:
        checks = verify_run(teacher)
        if record.digest not in (None, _digest(teacher)):
            problem = "is not the one this run began with (its checkpoint's digest differs)"
            checks.append(Check("teacher", str(teacher), None, problem, 0))
    except ScmkitError as error:
        return [Check("teacher", str(teacher), None, str(error), 0)]
    return checks


def _digest(run: Path) -> str | None:
    """The digest of a run's newest checkpoint; None where a check of its own has said why not."""
    try:
        return checkpoint.digest(checkpoint.latest(run / "checkpoints"))
    except ScmkitError:
        return None


def _metrics_problem(path: Path) -> str | None:
    try:
        torn = next((n for n, line in enumerate(read_lines(path), 1) if line is None), None)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if torn is None else f"line {torn} is torn or no line of metrics"


def _check(what: str, path: Path, problem: str | None, step: int | None = None) -> Check:
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return Check(what, str(path), step, problem, size)
