"""Progress on stderr: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TextIO, cast, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
)

from scmkit.telling import Unfailing
from scmkit.terminal import printable


@runtime_checkable
class Reporter(Protocol):
    """What training tells its user."""

    def message(self, text: str) -> None:
        """One line worth reading."""
        ...

    def start(self, name: str, step: int, steps: int) -> None:
        """Training of `name` starts at `step` of `steps`."""
        ...

    def advance(self, step: int, line: Mapping[str, Any] | None) -> None:
        """`step` steps are done; `line` holds the latest metrics where there are new ones."""
        ...

    def stop(self) -> None:
        """Training stopped, finished or not."""
        ...


class Silent:
    """Says nothing."""

    def message(self, text: str) -> None: ...
    def start(self, name: str, step: int, steps: int) -> None: ...
    def advance(self, step: int, line: Mapping[str, Any] | None) -> None: ...
    def stop(self) -> None: ...


def describe(line: Mapping[str, Any]) -> str:
    """The metrics worth watching: with tangent normalization the loss value says nothing.

    So `|df/dt|` by noise level where there is one (low to high noise), the loss elsewhere
    (arXiv 2410.11081, Section 4.2).
    """
    if "df_dt_by_noise" in line:
        levels = " ".join("-" if v is None else f"{v:.2g}" for v in line["df_dt_by_noise"])
        text = f"|df/dt| by noise {levels}"
    elif "loss" not in line:
        text = "every batch skipped"
    else:
        text = f"mse {line['mse']:.4f}" if "mse" in line else f"loss {line['loss']:.4f}"
    rate = line["steps_per_second"]
    pace = f"{rate:.1f} steps/s" if rate >= 0.05 or not rate else f"{1 / rate:.0f} s/step"
    return f"{pace}  {text}"


def duration(seconds: float) -> str:
    """A length of time for people, such as `12 min` or `3.5 h`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.0f} s"


class Bar:
    """A live bar, or a plain line every few seconds where stderr is no terminal.

    The bar is there only while steps are taken: what XLA has to say while it compiles comes from C++,
    straight to the terminal, and would run into it.
    """

    PLAIN_INTERVAL = 10.0
    UNTIMED = 4
    """Steps at the beginning that say nothing of the others: the first compiles, the next are queued."""

    def __init__(self) -> None:
        self._stream = cast(TextIO, Unfailing(sys.stderr))
        self._console = Console(file=self._stream)
        self._progress: Progress | None = None
        self._name, self._steps, self._text, self._printed = "", 0, "", 0.0
        self._calls, self._timed, self._left = 0, (0, 0.0), ""

    def message(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def start(self, name: str, step: int, steps: int) -> None:
        self._name, self._steps, self._text = name, steps, ""
        self._calls, self._left, self._printed = 0, "", time.monotonic()
        if not self._console.is_terminal:
            return
        self.message(f"{name}  {step}/{steps}  compiling ...")
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[text]}"),
            console=self._console,
        )
        self._task = self._progress.add_task(name, total=steps, completed=step, left="", text="")

    def advance(self, step: int, line: Mapping[str, Any] | None) -> None:
        news = self._time(step) or line is not None
        if line is not None:
            self._text = describe(line)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, left=self._left, text=self._text)
            self._progress.start()
        elif news and (
            step == self._steps or time.monotonic() - self._printed > self.PLAIN_INTERVAL
        ):
            shown = "  ".join(filter(None, (self._left, self._text)))
            told = printable(f"{self._name}  {step}/{self._steps}  {shown}")
            print(told, file=self._stream, flush=True)
            self._printed = time.monotonic()

    def _time(self, step: int) -> bool:
        """Take the time; returns whether there is an estimate for the first time."""
        self._calls += 1
        now, (since, then) = time.monotonic(), self._timed
        if self._calls <= self.UNTIMED or step <= since:  # A rollback goes back.
            self._timed = (step, now)
            return False
        left = (now - then) / (step - since) * (self._steps - step)
        first, self._left = not self._left, f"{duration(left)} left" if left else ""
        return first and bool(left)

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """No bar for as long as this lasts, and no part of the time that steps take."""
        shown, began = self._progress, time.monotonic()
        if shown is not None:
            shown.live.transient = True
            shown.stop()
            shown.live.transient = False
        try:
            yield
        finally:
            step, then = self._timed
            self._timed = step, then + time.monotonic() - began
            if shown is not None:
                shown.start()

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def unseen(reporter: Reporter) -> contextlib.AbstractContextManager[None]:
    """No bar on the terminal for as long as this lasts: something is compiled."""
    return reporter.unseen() if isinstance(reporter, Bar) else contextlib.nullcontext()
