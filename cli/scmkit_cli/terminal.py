"""Printing: whatever a line quotes, no control code reaches the terminal."""

import typer

from scmkit.terminal import printable


def say(text: str, *, err: bool = False) -> None:
    """One line on stdout, or on stderr."""
    typer.echo(printable(text), err=err)  # noqa: TID251
