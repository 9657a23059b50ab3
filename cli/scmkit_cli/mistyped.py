"""What typer finds wrong with what was typed, as errors of one line."""

import contextlib
from collections.abc import Iterator
from typing import Any

import typer

from scmkit.errors import UsageError

# Of its errors typer shows only this one, whose base has those of unknown options and commands, too.
_TyperError: type[Exception] = typer.BadParameter.__mro__[1]

NUMERIC = ("int_", "float_", "greater_", "less_")
"""What the kinds of faults begin with that a number can have."""


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what typer raises for an option, argument or command into a `UsageError`."""
    try:
        yield
    except _TyperError as raised:
        error: Any = raised
        # A command without arguments, where some are needed, shows its help.
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        if isinstance(error, typer.BadParameter) and error.param is not None and error.message:
            raise UsageError(_bad_value(error)) from None
        more = f"; see `{error.ctx.command_path} --help`" if error.ctx is not None else ""
        raise UsageError(f"{_clause(error.format_message())}{more}") from None


def _bad_value(error: Any) -> str:
    """The option or argument, its value, and what would do."""
    name = max(error.param.opts, key=len)
    if not hasattr(error.__cause__, "errors"):
        return f"{name}: {_clause(error.message)}"
    # Of pydantic, by which typer reads values.
    fault = error.__cause__.errors()[0]
    given = f"{name} {fault['input']}"
    if fault["type"].startswith(NUMERIC):
        return f"{given}: give {_number(error.param, fault['type'])}"
    return f"{given}: {_clause(fault['msg'].removeprefix('Value error, '))}"


def _number(parameter: Any, fault: str) -> str:
    """The numbers that an option takes, in words."""
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    fractional = any(isinstance(bound, float) for bound in (low, high))
    noun = "a number" if fractional or fault.startswith("float_") else "a whole number"
    if low is None:
        return noun if high is None else f"{noun} of at most {high}"
    return f"{noun} of at least {low}" if high is None else f"{noun} from {low} to {high}"


def _clause(message: str) -> str:
    """A message of typer's behind a colon: one line, lower case in front, no full stop."""
    line = " ".join(message.split()).rstrip(".")
    return line[:1].lower() + line[1:]
