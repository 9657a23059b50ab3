"""Every error a user can meet: one line that says what was wrong, which value, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class ScmkitError(Exception):
    """An error with a remedy in its message. The command line prints it and exits with `code`."""

    code = 1


class UsageError(ScmkitError):
    """What was asked for is wrong."""

    code = 2


class PluginError(UsageError):
    """A plugin that cannot be used: unknown, ambiguous, broken, of another API, or in conflict."""


class OptionError(UsageError):
    """An unknown option or a value that does not fit."""


class DataError(UsageError):
    """A data set or store that is not what it should be."""


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known name, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
