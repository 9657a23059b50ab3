"""Whether everything in a run is as it was written, also while it is trained."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.composing.recipe_file import read_run_recipe
from scmkit.errors import ScmkitError
from scmkit.runs import checkpoint
from scmkit.runs.array_reader import read_arrays
from scmkit.runs.checkpoint_directory import DAMAGED
from scmkit.runs.manifest import Damage, read_manifest
from scmkit.runs.metrics import METRICS, changed, read_lines
from scmkit.runs.provenance import standing
from scmkit.storage.finite import not_finite


@dataclass(frozen=True)
class Check:
    """One part of a run, and what is wrong with it.

    **Attributes:**

    - `what`: `recipe`, `metrics`, `checkpoint` or `teacher`.
    - `path`: where it is.
    - `step`: of a checkpoint; None for the others.
    - `problem`: what is wrong, naming the file; None if it is good.
    - `size`: in bytes.
    - `note`: what there is to know of it though it is good, such as that it has no digest.
    """

    what: str
    path: str
    step: int | None
    problem: str | None
    size: int
    note: str | None = None


def verify_run(path: Path) -> list[Check]:
    """Check recipe, metrics and every byte of every checkpoint of the run at `path`, and its teacher's.

    NaN and infinity in the arrays of a checkpoint are a problem, even if it is as it was written. Files that
    training removes, replaces or appends to meanwhile are not taken for damaged.

    Raises `UsageError` if there is no such directory.
    """
    recipe = None
    try:
        recipe = read_run_recipe(path)
        checks = [_recipe_check(path)]
    except ScmkitError as error:
        if not path.is_dir():
            raise
        checks = [_check("recipe", path / "recipe.json", str(error))]
    if (path / "metrics.jsonl").exists():
        checks.append(_metrics_check(path, recipe))
    for folder in sorted((path / "checkpoints").glob("*")):
        digits = folder.name.removeprefix(DAMAGED)
        if digits.isdecimal() and (check := _checkpoint_check(folder, int(digits))):
            checks.append(check)
    return checks + _teacher_checks(path, recipe)


def _recipe_check(run: Path) -> Check:
    file = run / "recipe.json"
    try:
        found = standing(run)
    except (OSError, ValueError) as error:
        return _check("recipe", file, f"cannot be read ({error})")
    if found.edited:
        return _check("recipe", file, f"was {found.how}")
    note = f"differs from the newest checkpoint's: {found.told}" if found.told else None
    if found.sealed is None:
        note = "has no digest, which earlier versions did not write"
    return _check("recipe", file, None, note=note)


def _checkpoint_check(folder: Path, step: int) -> Check | None:
    """The check of a checkpoint; None where there is none, or none any more."""
    while (before := _identity(folder)) is not None:
        problem = checkpoint.problem(folder) or _not_finite(folder)
        check = _check("checkpoint", folder, problem, step)
        if check.problem is None or _identity(folder) == before:
            return check
    return None


def _not_finite(path: Path) -> str | None:
    """Which arrays of the checkpoint at `path` hold NaN or infinity; None if there are none.

    Such a checkpoint is not damaged: it can be read, and resumed. One array is in memory at a time.
    """
    try:
        leaves = read_manifest(path)[0].leaves
        like = np.empty(0)
        numbers = (name for name, leaf in leaves.items() if "key" not in leaf)
        arrays = ((name, read_arrays(path, {name: like}, leaves)[name]) for name in numbers)
        found = not_finite(arrays)
    except Damage as error:
        return str(error)
    return None if found is None else f"is as it was written, and has {found}"


def _identity(folder: Path) -> int | None:
    """The inode of a folder, which tells it from another one put in its place; None where there is none."""
    with contextlib.suppress(OSError):
        return folder.stat().st_ino if folder.is_dir() else None
    return None


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
        return checkpoint.of_latest(run / "checkpoints", checkpoint.digest)
    except ScmkitError:
        return None


def _metrics_check(run: Path, recipe: Recipe | None) -> Check:
    file, note = run / "metrics.jsonl", None
    try:
        digests = _metrics_digests(run / "checkpoints", recipe)
        if digests and all(changed(file, digest) for digest in digests):
            return _check("metrics", file, "was changed since the newest checkpoint was saved")
        if not digests:
            note = "no checkpoint has a digest of it, which earlier versions did not write"
        problem = _torn(file)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    return _check("metrics", file, problem, note=note)


def _metrics_digests(checkpoints: Path, recipe: Recipe | None) -> list[dict[str, Any]]:
    """The digests of the metrics file that it may have to match: the one in the newest checkpoint.

    After a rollback that one may cover lines which were dropped since; then the newest planned checkpoint's
    digest is good, too.
    """
    paths = [checkpoint.latest(checkpoints)] if checkpoint.steps(checkpoints) else []
    planned = checkpoint.newest_planned(checkpoints)
    if planned is not None and recipe is not None and recipe.train.on_nonfinite == "rollback":
        paths.append(planned)
    found = [checkpoint.notes(path).get(METRICS) for path in paths]
    return [d for d in found if isinstance(d, dict) and type(d.get("bytes")) is int]


def _torn(path: Path) -> str | None:
    """Which line is torn, if any. A file that grows meanwhile is being written, and read again."""
    for _ in range(10):
        size = path.stat().st_size
        torn = next((n for n, line in enumerate(read_lines(path), 1) if line is None), None)
        if torn is None:
            return None
        if path.stat().st_size == size:
            return f"line {torn} is torn or no line of metrics"
    return None


def _check(
    what: str, path: Path, problem: str | None, step: int | None = None, note: str | None = None
) -> Check:
    size = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return Check(what, str(path), step, problem, size, note)
