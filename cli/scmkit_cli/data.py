"""`scmkit data`: importing data into a store, and looking at one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scmkit.bounds import LAST_SEED
from scmkit_cli.streams import alone, print_json
from scmkit_cli.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from scmkit.interfaces import AbstractDataset, Split

MANY = 16
"""Values or classes in a line."""

app = typer.Typer(no_args_is_help=True, help="Import data, and look at a data set.")


@app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of images (subfolders: splits, classes), an .npz file, an IDX images file, "
            "or a folder of MNIST's IDX files."
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="The store to create. Nothing may be there yet.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Crop images to centred squares and resize them to N x N pixels."),
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
) -> None:
    """Import SOURCE into a new store at DEST, from which `scmkit train --data DEST` reads."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from scmkit.data import import_data
    from scmkit.errors import BadFilesError

    passed: list[tuple[Path, str]] = []

    console = Console(stderr=True)
    columns = TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        # Elsewhere it would leave an empty line.
        seen = console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=not seen) as bar:
            task = bar.add_task("importing", total=None)
            store = import_data(
                source,
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
                progress=lambda done, total: bar.update(task, completed=done, total=total),
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
) -> None:
    """Show what a data set holds: shapes, sizes, classes and statistics."""
    from scmkit.composing.datasets import resolve_data

    dataset = resolve_data(data).dataset
    facts = describe(dataset)
    if png is not None:
        write_picture(dataset, png)
    if as_json:
        print_json(context, {"data": data} | facts)
        return
    say(f"{data}: {summary(facts)}")
    shown = {
        "dtype": [str(facts["dtype"])] if facts["dtype"] else [],
        "mean": [f"{value:.4g}" for value in facts["mean"]],
        "std": [f"{value:.4g}" for value in facts["std"]],
        "classes": [
            f"{name}: {train}+{test}"
            for name, train, test in zip(facts["classes"], *facts["counts"].values(), strict=True)
        ],
    }
    for name, values in shown.items():
        if values:
            more, note = len(values) - MANY, "train+test " if name == "classes" else ""
            say(f"  {name:8} {note}{', '.join(values[:MANY])}{f' and {more} more' * (more > 0)}")
    empty = [
        name for name, n in zip(facts["classes"], facts["counts"]["train"], strict=True) if not n
    ]
    if empty:
        say(
            f"  empty    {', '.join(empty[:MANY])}: no training samples, so that no model can learn them"
        )


def describe(dataset: "AbstractDataset") -> dict[str, Any]:
    """What there is to know of any data set, as JSON: kind, shape, sizes, classes, statistics."""
    import numpy as np

    from scmkit.data import Store
    from scmkit.data.classes import class_name

    statistics, classes = dataset.statistics(), dataset.num_classes
    counts: dict[str, list[int]] = {"train": [], "test": []}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        labels = dataset.labels(split)
        if labels is not None:
            counts[split] = np.bincount(labels, minlength=classes).tolist()
    return {
        "kind": "images" if len(dataset.shape) == 3 else "vectors",
        "shape": list(dataset.shape),
        "train": dataset.size("train"),
        "test": dataset.size("test"),
        "num_classes": classes,
        "mean": list(statistics.mean),
        "std": list(statistics.std),
        "dtype": dataset.metadata.dtype if isinstance(dataset, Store) else None,
        "classes": [class_name(i, dataset.class_names) for i in range(classes)],
        "counts": counts,
    }


def summary(facts: dict[str, Any]) -> str:
    """One line for people, from what `describe` returned."""
    shape = "x".join(str(n) for n in facts["shape"])
    labels = f"{facts['num_classes']} classes" if facts["num_classes"] else "no labels"
    sizes = f"{facts['train']} train and {facts['test']} test"
    return f"{sizes} {facts['kind']} of shape {shape}, {labels}"


def write_picture(dataset: "AbstractDataset", file: Path) -> None:
    """Draws train samples into a PNG: a grid of 64 images, or vectors over those of the test split.

    Images are of all classes in turn, or of 64 at equal distances where there are more, each over its class.
    Raises `DataError` for samples of any other shape, `RunError` where `file` cannot be written.
    """
    import numpy as np

    from scmkit.errors import DataError
    from scmkit.sampling import class_captions, class_columns, image_grid, save_png, vector_picture

    def some(split: "Split", limit: int) -> np.ndarray:
        return dataset.read(split, np.arange(min(limit, dataset.size(split))))[0]

    if len(dataset.shape) == 3:
        images, labels = dataset.read("train", _in_turn(dataset))
        captions = None if labels is None else class_captions(labels.tolist(), dataset.class_names)
        present = 0 if labels is None else len(np.unique(labels))
        columns = class_columns(len(images), present)
        picture = image_grid(images, columns, captions=captions)
    elif len(dataset.shape) == 1:
        behind = some("test" if dataset.size("test") else "train", 10_000)
        picture = vector_picture(some("train", 10_000), behind)
    else:
        raise DataError(
            f"{file}: --png shows images and vectors, and these samples have shape "
            f"{dataset.shape}; leave --png out"
        )
    save_png(file, picture)


def _in_turn(dataset: "AbstractDataset", limit: int = 64) -> "np.ndarray":
    """Indices of train samples: one of each class after the other, until there are enough."""
    import numpy as np

    labels = dataset.labels("train")
    if labels is None:
        return np.arange(min(limit, dataset.size("train")))
    present = np.unique(labels)
    shown = present[np.linspace(0, len(present) - 1, min(limit, len(present))).astype(int)]
    each = max(1, limit // len(shown))
    # Rounds of one sample of each class; a class with fewer samples is left out of the later ones.
    rounds = [np.flatnonzero(labels == label)[:each] for label in shown]
    return np.asarray([group[i] for i in range(each) for group in rounds if i < len(group)])
