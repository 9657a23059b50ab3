"""A bar on stderr that counts what is done of how many."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting(doing: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function `(done, total)` that moves a bar, on a terminal; `doing` names the work."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # Elsewhere it would leave an empty line.
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
