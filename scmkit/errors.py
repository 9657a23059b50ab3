"""Every error a user can meet: one line that says what was wrong, which value, and what to do."""

import reprlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from scmkit.terminal import printable


class ScmkitError(Exception):
    """An error with a remedy in its message. The command line prints it and exits with `code`."""

    code = 1

    def __init__(self, *args: object) -> None:
        # Messages quote files of strangers: neither new lines nor a terminal's control codes get through.
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


class UsageError(ScmkitError):
    """What was asked for is wrong."""

    code = 2


class InputError(UsageError, ValueError):
    """A model was called with something that is not one sample at one time; a plugin that did so is named."""


class PluginError(UsageError):
    """A plugin that cannot be used: unknown, ambiguous, broken, of another API, or in conflict."""


class OptionError(UsageError):
    """An unknown option or a value that does not fit."""


class DataError(UsageError):
    """A data set or store that is not what it should be."""


class BadFilesError(DataError):
    """Files of a folder that cannot be imported; `files` has each one with the reason."""

    def __init__(self, folder: Path, files: Sequence[tuple[Path, str]]) -> None:
        self.files = tuple(files)
        first = "; ".join(f"{file}: {reason}" for file, reason in self.files[:5])
        more = f"; and {len(self.files) - 5} more" if len(self.files) > 5 else ""
        none = "--skip-non-images or " if any(r == "not an image" for _, r in self.files) else ""
        super().__init__(
            f"{folder}: {len(self.files)} of its files cannot be imported ({first}{more}); replace or remove "
            f"them, or pass over them with {none}--skip-bad"
        )


class RunError(ScmkitError):
    """A run directory that is missing, incomplete or already taken."""


class CheckpointError(RunError):
    """A checkpoint that is damaged or does not fit the model."""


class NonFiniteError(ScmkitError):
    """Training met a loss or gradient that is not finite."""


class Interrupted(ScmkitError):
    """Ctrl-C, after a checkpoint was saved."""

    code = 130


class Preempted(ScmkitError):
    """SIGTERM, after a checkpoint was saved."""

    code = 75


class Stopped(BaseException):
    """A signal that ends a command where it is: no fault, and so no `Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 70


def brief(value: object) -> str:
    """A value as Python writes it, in some seventy characters."""
    try:
        text = _BRIEF.repr(value)
    except ValueError:  # Python writes no whole number of so many digits.
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
