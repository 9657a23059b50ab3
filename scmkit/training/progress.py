"""Progress on stderr: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO, cast, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from scmkit.telling import Unfailing


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
    return f"{line['steps_per_second']:.1f} steps/s  {text}"


class Bar:
    """A live bar, or a plain line every few seconds where stderr is no terminal."""

    PLAIN_INTERVAL = 10.0

    def __init__(self) -> None:
        self._stream = cast(TextIO, Unfailing(sys.stderr))
        self._console = Console(file=self._stream)
        self._progress: Progress | None = None
        self._name, self._steps, self._text, self._printed = "", 0, "compiling", 0.0

    def message(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, name: str, step: int, steps: int) -> None:
        self._name, self._steps, self._text = name, steps, "compiling ..."
        self._printed = time.monotonic()
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}"),
            console=self._console,
        )
        self._progress.start()
        self._task = self._progress.add_task(name, total=steps, completed=step, text=self._text)

    def advance(self, step: int, line: Mapping[str, Any] | None) -> None:
        if line is not None:
            self._text = describe(line)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, text=self._text)
        elif line is not None and (
            step == self._steps or time.monotonic() - self._printed > self.PLAIN_INTERVAL
        ):
            print(
                f"{self._name}  {step}/{self._steps}  {self._text}", file=self._stream, flush=True
            )
            self._printed = time.monotonic()

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
