"""`scmkit run`: what is in a run's directory."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit_cli.streams import alone, print_json
from scmkit_cli.terminal import say

app = typer.Typer(no_args_is_help=True)


@app.callback()
def options() -> None:
    """Look after runs."""


@app.command("verify")
def verify(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    as_json: Annotated[bool, typer.Option("--json", callback=alone, help="Print JSON.")] = False,
) -> None:
    """Check every byte of a run's checkpoints, its recipe and its metrics, and its teacher's.

    The recipe is held against its digest and the newest checkpoint's recipe, the metrics against the
    digest that the newest checkpoint has of them; lines since are read. Runs may be in training.

    Exits with 0 if all is good, with 1 otherwise.
    """
    from dataclasses import asdict

    from scmkit.runs.verification import verify_run

    checks = verify_run(run)
    if as_json:
        print_json(context, [asdict(check) for check in checks], indent=2)
    else:
        for check in checks:
            good = "good" if check.note is None else f"good ({check.note})"
            state = good if check.problem is None else check.problem
            say(f"{check.path}  {check.size} bytes  {state}")
    if any(check.problem is not None for check in checks):
        raise typer.Exit(1)
