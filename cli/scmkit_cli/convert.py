"""`scmkit convert` and `scmkit export`."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit.errors import UsageError
from scmkit_cli.options import Settings, parse_settings
from scmkit_cli.terminal import say


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="What the file holds: edm2, edm, another importer plugin, or scmkit (what `scmkit export` "
            "wrote).",
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            help="A .safetensors file, an .npz of a state dict, a PyTorch checkpoint, or NVIDIA's .pkl. "
            "Nothing in it is executed."
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="The run's directory, which must not exist.")],
    settings: Settings = None,
) -> None:
    """Make a run of the weights of a pretrained network.

    The run is what `--teacher` and `scmkit sample` take. Sizes are read off the file; --set wins over
    them.

    Example: scmkit convert edm2 edm2-img64-s-1073741-0.075.pkl runs/edm2-s
    """
    given = parse_settings(settings)
    if given and source == "scmkit":
        raise UsageError("--set: an exported run brings its own recipe, leave --set out")

    from scmkit import Run, count_parameters
    from scmkit.runs.convert import convert, restore_exported
    from scmkit_cli.summary import print_model

    made: Run = (
        restore_exported(file, dest) if source == "scmkit" else convert(source, file, dest, given)
    )
    # It was trained elsewhere, or as an earlier run: the recipe has no plan of it.
    print_model(made.recipe)
    say(f"{'parameters':<15} {count_parameters(made.recipe):,}", err=True)
    say(f"next            scmkit sample {dest}", err=True)
    if made.recipe.makes == "diffusion":
        train = f"scmkit train --plugin scd --teacher {dest} --data STORE"
        say(f"                {train}", err=True)
    say(str(dest))


def export(
    run: Annotated[Path, typer.Argument(help="The run's directory.")],
    dest: Annotated[Path, typer.Argument(help="A .safetensors file, which must not exist.")],
) -> None:
    """Write a run's averaged weights as safetensors, the recipe in the metadata.

    `scmkit convert scmkit FILE DEST` makes a run of it again.
    """
    from scmkit import Run
    from scmkit.runs.convert import export

    export(Run.load(run), dest)
    say(str(dest))
