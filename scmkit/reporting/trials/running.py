"""Running a bench: every cell is trained, measured and kept; results that are there are taken as they are."""

import dataclasses
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

from scmkit.composing.footprint import count_parameters
from scmkit.composing.recipe import PluginRecord, Recipe
from scmkit.errors import Interrupted, Preempted, ScmkitError, Stopped, UsageError
from scmkit.evaluation import Row
from scmkit.reporting.cost import training_seconds
from scmkit.reporting.trials.measuring import measured
from scmkit.reporting.trials.plan import Cell, Plan, teacher_path
from scmkit.runs.run import Run
from scmkit.storage.files import plain_path
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
    call continues a bench; metrics and numbers of steps that are new are measured on finished runs. A cell
    that fails loses no other: its result holds the error. `finished` is told all results after each cell.
    Raises `UsageError` before any training for what cannot work, and `Interrupted` or `Preempted` at a
    signal; in training, after a checkpoint was saved.
    """
    out, recipes = plain_path(out), plan.checked()
    results: list[Result] = []
    for i, cell in enumerate(recipes):
        progress(f"[{i + 1}/{len(recipes)}] {cell.path}")
        known = {(r.cell.data, r.cell.seed) for r in results if r.error is None}
        baselines = (cell.data, cell.seed) not in known  # Of the first method that does not fail.
        try:
            done = _result(
                plan, out, recipes, cell, reporter or Bar(), progress, baselines=baselines
            )
            results.append(done)
        except (Interrupted, Preempted, Stopped, KeyboardInterrupt) as stop:
            terminated = isinstance(stop, Stopped) and stop.number == signal.SIGTERM
            kind = Preempted if terminated or isinstance(stop, Preempted) else Interrupted
            raise kind(
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
    *,
    baselines: bool,
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
        tuple(measured(plan, cell, run, progress, baselines=baselines)),
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
    known = _with_later_options(run.recipe, recipe)
    if known.replace(teacher=None, data=theirs) != recipe.replace(teacher=None):
        what = "other settings" if theirs == recipe.data else "other data"
        raise UsageError(
            f"'{path}' was trained with {what}; use another --out, or remove it to train again"
        )
    return run if run.finished else resume(path, reporter=reporter)


def _with_later_options(recorded: Recipe, recipe: Recipe) -> Recipe:
    """A recorded recipe with options that its plugins have had since, where `recipe` has the defaults."""

    def record(name: str, known: PluginRecord) -> PluginRecord:
        asked = recipe.plugins[name].config if name in recipe.plugins else {}
        _, _, filled = recorded.plugin(name)
        later = {
            k: v for k, v in asked.items() if k not in known.config and getattr(filled, k) == v
        }
        return dataclasses.replace(known, config={**known.config, **later})

    return recorded.replace(plugins={k: record(k, known) for k, known in recorded.plugins.items()})
