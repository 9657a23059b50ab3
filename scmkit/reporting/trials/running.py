"""Running a bench: every cell is trained, measured and kept; results that are there are taken as they are."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from scmkit.composing.datasets import dataset_of
from scmkit.composing.footprint import count_parameters
from scmkit.composing.recipe import Recipe
from scmkit.errors import Interrupted, Preempted, RunError, ScmkitError, UsageError
from scmkit.evaluation import Row, evaluate, usual_features
from scmkit.reporting.cost import training_seconds
from scmkit.reporting.trials.guidance import guided
from scmkit.reporting.trials.plan import Cell, Plan, teacher_path
from scmkit.runs.run import Run
from scmkit.storage.containment import read_bounded
from scmkit.storage.files import plain_path, write_text
from scmkit.training import resume, train
from scmkit.training.progress import Bar, Reporter


@dataclass(frozen=True)
class Result:
    """The result of a cell.

    `seconds` is the time of its own training, `teacher_seconds` that of the teacher it shares with others;
    `error` says why there is none.
    """

    cell: Cell
    rows: tuple[Row, ...] = ()
    parameters: int = 0
    seconds: float = 0.0
    teacher: str | None = None
    teacher_seconds: float = 0.0
    error: str | None = None


def bench(
    plan: Plan,
    out: str | Path,
    *,
    reporter: Reporter | None = None,
    progress: Callable[[str], None] = lambda line: None,
    finished: Callable[[list[Result]], None] = lambda results: None,
) -> list[Result]:
    """Train and measure every cell of a plan below the directory `out`.

    Finished runs and measurements are taken as they are, a run that was stopped is resumed, so that the same
    call continues a bench. A cell that fails loses no other: its result holds the error. `finished` is told
    all results after each cell. Raises `UsageError` before any training for what cannot work, and
    `Interrupted` or `Preempted` after a checkpoint was saved.
    """
    out, recipes = plain_path(out), plan.checked()
    results: list[Result] = []
    for i, cell in enumerate(recipes):
        progress(f"[{i + 1}/{len(recipes)}] {cell.path}")
        try:
            results.append(_result(plan, out, recipes, cell, reporter or Bar(), progress))
        except (Interrupted, Preempted) as stop:
            raise type(stop)(
                f"stopped in {out / cell.path}; run the same command again to continue"
            ) from stop
        except Exception as error:
            message = (
                str(error) if isinstance(error, ScmkitError) else f"{type(error).__name__}: {error}"
            )
            progress(f"failed: {message}")
            results.append(Result(cell, error=message))
        finished(results)
        # Every program compiled on a CPU holds on to mappings of memory, of which a process has 65530.
        jax.clear_caches()
    return results


def _result(
    plan: Plan,
    out: Path,
    recipes: Mapping[Cell, Recipe],
    cell: Cell,
    reporter: Reporter,
    progress: Callable[[str], None],
) -> Result:
    recipe, teacher = recipes[cell], teacher_path(recipes, cell)
    seconds = 0.0
    if teacher is not None:
        assert isinstance(recipe.teacher, Recipe)
        seconds = training_seconds(_trained(out / teacher, recipe.teacher, reporter))
        recipe = plan.recipe(cell, out / teacher)
    run = _trained(out / cell.path, recipe, reporter)
    return Result(
        cell,
        tuple(_measured(plan, cell, run, progress)),
        count_parameters(run.recipe),
        training_seconds(run),
        None if teacher is None else str(teacher),
        seconds,
    )


def _trained(path: Path, recipe: Recipe, reporter: Reporter) -> Run:
    """The finished run at a path: trained, resumed, or taken as it is."""
    if not (path / "recipe.json").exists():
        return train(recipe, out=path.parent, name=path.name, reporter=reporter)
    run = Run.load(path)
    theirs = run.recipe.data
    if theirs.digest is None:  # A run of an earlier version.
        theirs = dataclasses.replace(theirs, digest=recipe.data.digest)
    if run.recipe.replace(teacher=None, data=theirs) != recipe.replace(teacher=None):
        what = "other settings" if theirs == recipe.data else "other data"
        raise UsageError(
            f"'{path}' was trained with {what}; use another --out, or remove it to train again"
        )
    return run if run.finished else resume(path, reporter=reporter)


def _measured(plan: Plan, cell: Cell, run: Run, progress: Callable[[str], None]) -> list[Row]:
    """The evaluation of a run, kept in a file beside it that holds as long as run and request do."""
    asked = {
        "checkpoint": run.digest(),
        "sampling": None if plan.sampling is None else list(plan.sampling),
        "metrics": None if plan.metrics is None else list(plan.metrics),
        "n": plan.n,
        "features": plan.features or usual_features(dataset_of(run.recipe)),
        "baselines": cell.method == plan.methods[0],
    }
    if plan.guidance is not None:
        asked["guidance"] = list(plan.guidance)
    file = run.path.with_name(f"{run.path.name}.json")
    if (kept := _kept(file, asked)) is not None:
        return kept
    progress("measuring ...")
    given = {"metrics": plan.metrics, "features": plan.features}
    extra: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    rows: list[Row] = []
    for strength in plan.guidance or (None,):
        rows += evaluate(
            run,
            steps=plan.sampling,
            n=plan.n,
            seed=cell.seed,
            baselines=asked["baselines"] and not rows,
            model=guided(run, strength),
            guidance=strength,
            **extra,
        )
    raw = [dataclasses.asdict(row) for row in rows]
    write_text(file, json.dumps({"asked": asked, "rows": raw}, indent=1, default=sorted) + "\n")
    return rows


def _kept(file: Path, asked: dict[str, Any]) -> list[Row] | None:
    """The rows in a file, if it answers what is asked."""
    if not file.exists():
        return None
    try:
        kept = json.loads(read_bounded(file))
        return [row_of(raw) for raw in kept["rows"]] if kept["asked"] == asked else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"'{file}' cannot be read: {reason}; remove it to measure again") from None


def row_of(raw: Mapping[str, Any]) -> Row:
    """A row from its JSON."""
    intervals = {k: (float(low), float(high)) for k, (low, high) in raw["intervals"].items()}
    larger = frozenset(raw["larger_is_better"])
    return Row(**{**raw, "intervals": intervals, "larger_is_better": larger})
