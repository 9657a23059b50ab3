"""`scmkit resume`."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit_cli.options import Mesh, OnNonfinite


def resume(
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    steps: Annotated[int | None, typer.Option(help="New total number of optimizer steps.")] = None,
    on_nonfinite: OnNonfinite = None,
    mesh: Mesh = None,
    edited: Annotated[
        bool, typer.Option("--edited", help="Go on with a recipe.json that was edited on purpose.")
    ] = False,
) -> None:
    """Continue a run from its newest checkpoint, bit for bit as if it had never stopped."""
    from scmkit import resume
    from scmkit_cli.summary import print_finished

    print_finished(resume(run, steps=steps, on_nonfinite=on_nonfinite, edited=edited, mesh=mesh))
