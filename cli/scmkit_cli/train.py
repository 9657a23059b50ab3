"""`scmkit train`."""

from pathlib import Path
from typing import Annotated

import typer

from scmkit_cli.options import Mesh, OnNonfinite, Settings, parse_settings


def train(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            "-p",
            metavar="NAME",
            help="A plugin to build with: NAME, PACKAGE:NAME, or SLOT=NAME to take one slot of it. "
            "Repeatable; defaults fill the rest.",
        ),
    ] = None,
    settings: Settings = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="A .toml or .json file of plugins, settings and data, or the recipe.json of a run; "
            "what is named here on the command line wins.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="A data set's plugin (digits, fashion-mnist, emoji, two-moons, checkerboard, gmm) or the "
            "path of a store made by `scmkit data import`. Default: digits.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="A trained run to start from and, where the method distills, to learn from; for scd it may "
            "use another noise process. Without one a method that starts from a teacher trains it first; "
            "'none' starts one that needs no more than weights (sct, ect) from fresh ones.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps; of a teacher trained along the way, too."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per optimizer step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    on_nonfinite: OnNonfinite = None,
    mesh: Mesh = None,
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: made up.")] = None,
    out: Annotated[Path, typer.Option(help="Where runs go.")] = Path("runs"),
) -> None:
    """Train a model; with no plugin named: TrigFlow and sCT on handwritten digits.

    A run is a directory OUT/NAME with its recipe, metrics, checkpoints and sample pictures. Ctrl-C saves
    first; `scmkit resume RUN` continues.

    Training settings are set as `--set train.OPTION=VALUE` (`scmkit plugins info train` lists them), those
    of a teacher trained along the way as `--set teacher.train.OPTION=VALUE`.
    """
    given = parse_settings(settings)
    flags = {
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "on_nonfinite": on_nonfinite,
    }
    given |= {f"train.{k}": v for k, v in flags.items() if v is not None}

    from scmkit import compose, train
    from scmkit.composing.recipe_file import RecipeFile, override, read_recipe
    from scmkit.training.placement import check_mesh
    from scmkit_cli.summary import print_finished, print_recipe

    named = tuple(plugin or ())
    file = RecipeFile(named, {}) if recipe is None else override(read_recipe(recipe), named)
    base = file.settings if file.complete else {}
    given = given if file.complete else {**file.settings, **given}
    data = data or file.data or "digits"
    composed = compose(file.plugins, given, data=data, teacher=teacher, base=base)
    check_mesh(composed, mesh)
    print_recipe(composed)
    print_finished(train(composed, out=out, name=name, mesh=mesh))
