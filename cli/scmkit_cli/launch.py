"""`scmkit launch`."""

import sys
from typing import Annotated

import typer

from scmkit.errors import UsageError
from scmkit_cli.together import TOGETHER

PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""What follows the command's name is for that command."""


def launch(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND...", help="`train`, `resume`, `sample` or `eval`, with its options."
        ),
    ],
    processes: Annotated[int, typer.Option(min=1, help="How many processes.")],
    devices_per_process: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Devices of each process: on a CPU so many parts of it, else so many GPUs. Default: the "
            "whole CPU, or one GPU.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run processes of a command on this machine that train together, as they would on a cluster.

    `scmkit launch --processes 2 -- train --plugin trigflow`. The exit code is that of the first process to
    fail; Ctrl-C and SIGTERM reach all of them.
    """
    from scmkit.distribution.launch import launch as run

    if command[0] not in TOGETHER:
        raise UsageError(
            f"'{command[0]}' is no command that runs in several processes; these are: {', '.join(TOGETHER)}"
        )
    debug = ["--debug"] if "--debug" in sys.argv else []
    main = "from scmkit_cli.main import main; main()"
    program = [sys.executable, "-P", "-c", main, *command, *debug]
    if code := run(program, processes, devices_per_process):
        raise typer.Exit(code)
