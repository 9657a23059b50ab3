"""How `scmkit eval` shows its work and its rows."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scmkit.evaluation import Row


class Drawing:
    """A bar on stderr for what takes long; there from the first call to the end of each task."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> "Drawing":
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        if self._bar is None or what != self._what:
            self.__exit__()
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
            self._what = what
            self._bar = Progress(
                *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total)
        self._bar.update(self._task, completed=done)
        if done == total:
            self.__exit__()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def record(row: "Row") -> dict[str, Any]:
    """A row as JSON: metrics by their names, beside what there is to know of them."""
    return {
        "name": row.name,
        "nfe": row.nfe,
        **row.metrics,
        "intervals": dict(row.intervals),
        "seconds": row.seconds,
        "features": {name: dict(facts) for name, facts in row.features.items()},
    }


def lines(rows: Sequence["Row"]) -> Iterator[str]:
    """The table, and below it what there is to know of the features."""
    real = rows[0] if rows and rows[0].name.startswith("real") else None
    names = list(dict.fromkeys(k for row in rows for k in row.metrics))
    rising = {k for row in rows for k in row.larger_is_better}
    table = [["", "NFE", "ms", *(f"{k} \N{UPWARDS ARROW}" if k in rising else k for k in names)]]
    for row in rows:
        nfe = "" if row.nfe is None else f"{row.nfe:g}"
        seconds = "" if row.seconds is None else f"{1000 * row.seconds:.3g}"
        table.append([row.name, nfe, seconds, *(_cell(row, k, real) for k in names)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        yield "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
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
    unit = real.metrics.get(name, 0.0) if real else 0.0
    # A multiple of what may be 0 says nothing.
    low = real.intervals.get(name, (unit, unit))[0] if real else 0.0
    return f"{shown} ({value / unit:.2f}x)" if low > 0 else shown
