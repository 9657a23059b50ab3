"""How `scmkit eval` shows its work and its rows."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from scmkit.terminal import printable
from scmkit_cli.tables import aligned
from scmkit_cli.terminal import say

if TYPE_CHECKING:
    from scmkit.evaluation import Row


class Drawing:
    """What takes long, on stderr: a bar on a terminal, elsewhere a line every ten seconds."""

    INTERVAL = 10.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._what, self._told = "", time.monotonic()

    def __enter__(self) -> "Drawing":
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            if time.monotonic() - self._told > self.INTERVAL:
                say(f"{what}  {done}/{total}", err=True)
                self._told = time.monotonic()
            return
        bar = self._start(what, total) if what != self._what else self._bar
        bar.update(self._task, completed=done)
        if done == total:
            self.__exit__()

    def _start(self, what: str, total: int) -> Any:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.__exit__()
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
        console = Console(stderr=True)
        self._bar = Progress(
            *columns,
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar.start()
        self._what, self._task = what, self._bar.add_task(printable(what), total=total)
        return self._bar

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._what = None, ""


def chosen_features(rows: Sequence["Row"]) -> None:
    """Says on stderr that the rows are in a classifier's features, where nobody asked for them."""
    from scmkit.evaluation import CLASSIFIER

    if rows and CLASSIFIER in rows[0].features:
        say(
            f"features        {CLASSIFIER}, since these are images with classes; "
            "--features data compares pixels",
            err=True,
        )


def record(row: "Row") -> dict[str, Any]:
    """A row as JSON: metrics by their names, beside what there is to know of them."""
    return {
        "name": row.name,
        "nfe": row.nfe,
        "n": row.n,
        "steps": row.steps,
        "seeds": row.seeds,
        **row.metrics,
        "intervals": dict(row.intervals),
        "missing": dict(row.missing),
        "seconds": row.seconds,
        "features": {name: dict(facts) for name, facts in row.features.items()},
    }


def lines(rows: Sequence["Row"]) -> Iterator[str]:
    """The table, and below it what it does not show, and what there is to know of the features."""
    from scmkit.evaluation import remarks

    real = rows[0] if rows and rows[0].name.startswith("real") else None
    names = list(dict.fromkeys(k for row in rows for k in row.metrics))
    rising = {k for row in rows for k in row.larger_is_better}
    table = [["", "NFE", "ms", *(f"{k} \N{UPWARDS ARROW}" if k in rising else k for k in names)]]
    for row in rows:
        nfe = "" if row.nfe is None else f"{row.nfe:g}"
        seconds = "" if row.seconds is None else f"{1000 * row.seconds:.3g}"
        table.append([row.name, nfe, seconds, *(_cell(row, k, real) for k in names)])
    yield from aligned(table)
    yield from remarks(rows)
    for name, facts in (rows[0].features if rows else {}).items():
        shown = {**facts, "digest": str(facts["digest"])[:12]}
        told = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
        yield f"{name}: {', '.join(told)}"


def _cell(row: "Row", name: str, real: "Row | None") -> str:
    if name not in row.metrics:
        return ""
    value, shown = row.metrics[name], f"{row.metrics[name]:.4f}"
    if name in row.intervals:
        shown += f" ±{(row.intervals[name][1] - value):.4f}"
    if real is None or real.n != row.n:
        return shown
    # A multiple of what may be 0 says nothing.
    unit = real.metrics.get(name, 0.0)
    low = real.intervals.get(name, (unit, unit))[0]
    return f"{shown} ({value / unit:.2f}x)" if low > 0 else shown
