"""`scmkit data`: importing data into a store, and looking at one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scmkit.bounds import LAST_SEED
from scmkit_cli import data_pairs
from scmkit_cli.data_facts import describe, print_facts, summary
from scmkit_cli.data_picture import write_picture
from scmkit_cli.options import Settings, parse_settings
from scmkit_cli.progress import counting
from scmkit_cli.streams import alone, print_json
from scmkit_cli.terminal import say

if TYPE_CHECKING:
    from scmkit.interfaces import AbstractDataset

app = typer.Typer(
    no_args_is_help=True, help="Import data, draw pairs of noise and sample, look at a data set."
)
app.command("pairs")(data_pairs.pairs)


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images (subfolders: splits, classes), an .npz file, an IDX images file, "
            "a folder of MNIST's IDX files, or the name of a data set's plugin."
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="The store to create. Nothing may be there yet.")],
    size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Crop images to centered squares and resize them to N x N pixels."
        ),
    ] = None,
    grayscale: Annotated[
        bool | None,
        typer.Option(
            "--grayscale/--rgb",
            help="One channel or three; by default what the images are, and RGB if they differ.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--no-labels",
            help="Subfolders are classes even if they look like pieces of one set; or no labels at all. "
            "Default: what is found.",
            show_default=False,
        ),
    ] = None,
    drop_constant: Annotated[
        bool,
        typer.Option(
            "--drop-constant",
            help="Leave out channels (of vectors: coordinates) that have one value in all training samples.",
        ),
    ] = False,
    test_fraction: Annotated[
        float,
        typer.Option(help="Share drawn for the test split, where the source has none of its own."),
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Seed of that draw.")] = 0,
    skip_non_images: Annotated[
        bool,
        typer.Option("--skip-non-images", help="Pass over other files in a folder of images."),
    ] = False,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Pass over damaged, too large and too deep images too, naming each."
        ),
    ] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of one image.")] = 89_478_485,
    max_images: Annotated[int, typer.Option(min=1, help="Images of a folder.")] = 20_000_000,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of all samples.")] = 1 << 40,
    settings: Settings = None,
) -> None:
    """Import SOURCE into a new store at DEST, from which `scmkit train --data DEST` reads.

    A name is a plugin's where no file or folder has it: scmkit data import emoji DEST --set emoji.side=64
    """
    from scmkit.data import import_data
    from scmkit.data.writer import refuse_existing
    from scmkit.errors import BadFilesError

    passed: list[tuple[Path, str]] = []
    refuse_existing(dest)
    opened = _source(source, parse_settings(settings))

    try:
        with counting("importing") as counted:
            store = import_data(
                opened,
                dest,
                size=size,
                grayscale=grayscale,
                labels=labels,
                drop_constant=drop_constant,
                test_fraction=test_fraction,
                seed=seed,
                skip_non_images=skip_non_images,
                skip_bad=skip_bad,
                max_pixels=max_pixels,
                max_images=max_images,
                max_bytes=max_bytes,
                skipped=lambda file, reason: passed.append((file, reason)),
                progress=counted,
                told=lambda line: say(line, err=True),
            )
    except BadFilesError as error:
        # All of them: the error itself is one line.
        for file, reason in error.files if len(error.files) > 1 else ():
            say(f"{file}: {reason}", err=True)
        raise
    for file, reason in passed:
        say(f"skipped {file}: {reason}", err=True)
    if passed:
        say(f"skipped {len(passed)} files", err=True)
    say(f"{dest}: {summary(describe(store))}")


def _source(source: str, settings: dict[str, Any]) -> "Path | AbstractDataset":
    """What is to be imported: a path, or the data set of the plugin that is named."""
    from scmkit.composing.datasets import resolve_data
    from scmkit.composing.entries import entries
    from scmkit.errors import UsageError, did_you_mean
    from scmkit.storage.containment import exists

    plugins = {entry.name for entry in entries()}
    name, there = source.rpartition(":")[2], exists(Path(source))
    if name in plugins and not there:
        _refuse_others(settings, source)
        return resolve_data(source, settings).dataset
    if settings:
        what = (
            f"'{source}' is read as the file or folder of that name"
            if there
            else f"no plugin '{source}'"
        )
        raise UsageError(f"--set {next(iter(settings))}: {what}, and files have no options")
    if not there and (hint := did_you_mean(name, plugins)):
        raise UsageError(f"{source}: no such file, folder or plugin{hint}")
    return Path(source)


def _refuse_others(settings: dict[str, Any], source: str) -> None:
    """Raises `UsageError` for options of anything but the plugin that is named."""
    from scmkit.errors import UsageError

    for key in settings:
        if key.partition(".")[0] != source.rpartition(":")[2]:
            raise UsageError(f"--set {key}: is no option of '{source}'")


@app.command()
def info(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(help="An embedded data set's name, or a store of `scmkit data import`.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", callback=alone, help="Print one JSON object.")
    ] = False,
    png: Annotated[
        Path | None, typer.Option(help="Also draw some train samples, into this file.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Show what a data set holds: shapes, sizes, classes and statistics."""
    from scmkit.composing.datasets import resolve_data

    given = parse_settings(settings)
    _refuse_others(given, data)
    dataset = resolve_data(data, given).dataset
    facts = describe(dataset)
    if png is not None:
        write_picture(dataset, png)
    if as_json:
        print_json(context, {"data": data} | facts)
    else:
        print_facts(data, facts)
    if png is not None:
        say(str(png), err=as_json)
