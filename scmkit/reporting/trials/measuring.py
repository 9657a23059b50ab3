"""Measuring a bench's runs: what the file beside a run has is taken as it is, what is new is added."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scmkit.composing.build import build_sampler
from scmkit.composing.datasets import dataset_of
from scmkit.errors import RunError
from scmkit.evaluation import LEAVE_ONE_OUT, REAL, RESAMPLES, Row, evaluate, usual_features
from scmkit.evaluation.usual import usual_metrics
from scmkit.reporting.trials.guidance import guided
from scmkit.reporting.trials.plan import Cell, Plan
from scmkit.runs.run import Run
from scmkit.storage.containment import read_bounded
from scmkit.storage.files import write_text

MEANING = 2
"""Which definition of the rows a file holds: files of another are measured again."""

Key = tuple[int | None, float | None]
"""A number of sampling steps, None for rows that no model made, and a strength of guidance."""


def measured(
    plan: Plan, cell: Cell, run: Run, progress: Callable[[str], None], *, baselines: bool
) -> list[Row]:
    """The rows of a run that a plan asks for; new metrics, numbers of steps and strengths are added.

    With `baselines` those of real data and the Gaussian are among them.
    """
    features = plan.features or usual_features(dataset_of(run.recipe))
    asked = {
        "meaning": MEANING,
        "checkpoint": run.digest(),
        "n": plan.n,
        "features": features,
        "seeds": plan.sampling_seeds,
    }
    file = run.path.with_name(f"{run.path.name}.json")
    rows = kept(file, asked)
    metrics = list(plan.metrics or usual_metrics(features))
    steps = plan.sampled(run.recipe)
    if steps is None:
        steps = build_sampler(run.recipe, run.recipe.sampler, None).usual_steps
    wanted: list[Key] = [(count, s) for s in plan.guidance or (None,) for count in steps]
    if baselines:
        wanted.insert(0, (None, None))
    for (lacking, strength), counts in _lacking(rows, wanted, metrics).items():
        progress(f"measuring {', '.join(lacking)} ...")
        new = evaluate(
            run,
            steps=[count for count in counts if count is not None],
            n=plan.n,
            seed=cell.seed,
            seeds=plan.sampling_seeds,
            baselines=None in counts,
            model=guided(run, strength),
            guidance=strength,
            metrics=lacking,
            features=features,
            resamples=0,  # Intervals are over trainings.
            splits=RESAMPLES,
        )
        rows = _merged(rows, new)
        raw = [dataclasses.asdict(row) for row in rows]
        write_text(file, json.dumps({"asked": asked, "rows": raw}, indent=1, default=sorted) + "\n")
    found = [_only(row, metrics) for key in wanted for row in rows if _key(row) == key]
    return [row for row in found if row.metrics or row.nfe is not None]


def _key(row: Row) -> Key:
    return row.steps, row.guidance


def _lacking(
    rows: Sequence[Row], wanted: Iterable[Key], metrics: Sequence[str]
) -> dict[tuple[tuple[str, ...], float | None], list[int | None]]:
    """What is to be measured: metrics and strength, with the numbers of steps that lack these."""
    known: dict[Key, set[str]] = {}
    for row in rows:
        if row.name != LEAVE_ONE_OUT:  # It is there for few metrics.
            known.setdefault(_key(row), set()).update(row.metrics, row.missing)
    found: dict[tuple[tuple[str, ...], float | None], list[int | None]] = {}
    for key in wanted:
        lacking = tuple(m for m in metrics if m not in known.get(key, ()))
        if lacking:
            found.setdefault((lacking, key[1]), []).append(key[0])
    return found


def _merged(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Rows with what is new of them, those of real data first."""
    found = {(row.name, row.guidance): row for row in rows}
    for row in new:
        key = row.name, row.guidance
        old = found.get(key)
        found[key] = row if old is None else _joined(old, row)
    return sorted(found.values(), key=_place)


def _joined(old: Row, new: Row) -> Row:
    return dataclasses.replace(
        old,
        metrics={**old.metrics, **new.metrics},
        intervals={**old.intervals, **new.intervals},
        features={**old.features, **new.features},
        missing={**old.missing, **new.missing},
        larger_is_better=old.larger_is_better | new.larger_is_better,
    )


def _place(row: Row) -> int:
    first = (row.name.startswith(REAL), row.name == LEAVE_ONE_OUT, row.nfe is None, True)
    return first.index(True)


def _only(row: Row, metrics: Sequence[str]) -> Row:
    """A row with these metrics alone, in their order."""
    return dataclasses.replace(
        row,
        metrics={k: row.metrics[k] for k in metrics if k in row.metrics},
        intervals={k: v for k, v in row.intervals.items() if k in metrics},
        missing={k: v for k, v in row.missing.items() if k in metrics},
        larger_is_better=row.larger_is_better & {*metrics},
    )


def kept(file: Path, asked: Mapping[str, Any]) -> list[Row]:
    """The rows in a file; none where it is not there, or was measured otherwise than is asked."""
    if not file.exists():
        return []
    try:
        content = json.loads(read_bounded(file))
        return [row_of(raw) for raw in content["rows"]] if content["asked"] == asked else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"'{file}' cannot be read: {reason}; remove it to measure again") from None


def row_of(raw: Mapping[str, Any]) -> Row:
    """A row from its JSON."""
    intervals = {k: (float(low), float(high)) for k, (low, high) in raw["intervals"].items()}
    larger = frozenset(raw["larger_is_better"])
    return Row(**{**raw, "intervals": intervals, "larger_is_better": larger})
