"""Options that several commands share."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scmkit.bounds import LARGEST
from scmkit.errors import OptionError, ScmkitError, UsageError

if TYPE_CHECKING:
    from scmkit import Recipe
    from scmkit.interfaces import DataSpec

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PLUGIN.OPTION=VALUE",
        help="Set an option; `scmkit plugins info PLUGIN` lists them. Repeatable.",
    ),
]

OnNonfinite = Annotated[
    Literal["stop", "skip", "rollback"] | None,
    typer.Option(
        help="At a loss or gradient that is not finite: stop, skip the batch, or go back to the last "
        "checkpoint. `scmkit replay RUN` shows the cause. Default: stop, or what the run has.",
        show_default=False,
    ),
]

Mesh = Annotated[
    str | None,
    typer.Option(
        metavar="data=N,fsdp=M[,gather=bfloat16]",
        help="How the devices of all processes are used. Samples are divided among all N x M; weights and "
        "what goes with them among each M, which gather them once a step, in half the bytes with gather. May "
        "be another one at every resume. Default: all for data, with the weights whole on each.",
        show_default=False,
    ),
]

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="Metric plugin. Default: what is usual in the space. Repeatable.",
        show_default=False,
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Features plugin in whose space metrics are computed that have none of their own: "
        "classifier, which is trained on the data itself, inception, or data for none. "
        "Default: classifier for images with classes, else data.",
        show_default=False,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--n",
        min=2,
        max=LARGEST,
        help="Samples of each evaluation. Default: as many as both splits have, 2000 at the most.",
        show_default=False,
    ),
]


def class_names(recipe: "Recipe") -> tuple[str, ...]:
    """What the classes of a run's data are called; none where they have no names or these are not known."""
    from scmkit import dataset_of
    from scmkit.plugin import Slot

    data = recipe.data
    if data.class_names or not data.num_classes or Slot.dataset in recipe.slots:
        return data.class_names
    # Runs of earlier versions do not record what is in their store.
    try:
        names = dataset_of(recipe).class_names
    except ScmkitError:
        return ()
    return names if len(names) == data.num_classes else ()


def class_of(recipe: "Recipe", asked: str | None) -> int | None:
    """The class that `--class` means, by name or number; raises `UsageError` for one that is not there."""
    from scmkit.data.classes import class_index

    if asked is None:
        return None
    return class_index(asked, recipe.data.num_classes, class_names(recipe))


def parse_settings(given: list[str] | None) -> dict[str, Any]:
    """`["a.b=c"]` as `{"a.b": "c"}`; raises `OptionError` for anything else."""
    settings = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or "." not in key.strip("."):
            raise OptionError(f"--set {text}: write it as PLUGIN.OPTION=VALUE")
        settings[key] = value
    return settings


def by_plugin(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`{"a.b": "c"}` as `{"a": {"b": "c"}}`."""
    nested: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        plugin, _, option = key.partition(".")
        nested.setdefault(plugin, {})[option] = value
    return nested


def options_of(name: str, given: list[str] | None) -> dict[str, Any]:
    """The options in `--set` of the plugin `name` or `PACKAGE:NAME`.

    Raises `UsageError` for those of any other plugin.
    """
    chosen, own = by_plugin(parse_settings(given)), name.rpartition(":")[2]
    for other in chosen:
        if other != own:
            raise UsageError(f"--set {other}.…: only options of '{own}' are used here")
    return chosen.get(own, {})


def counts(given: str | None, option: str = "--steps") -> tuple[int, ...] | None:
    """`"1,2"` as `(1, 2)`; raises `UsageError` for anything but positive whole numbers."""
    if given is None:
        return None
    parts = given.split(",")
    # Nine digits are enough, and Python refuses to read thousands of them.
    if not all(p.strip().isdecimal() and len(p) < 10 and int(p) > 0 for p in parts):
        raise UsageError(f"{option} {given}: give positive whole numbers, such as 1,2")
    return tuple(map(int, parts))


def parse_shape(text: str) -> tuple[int, ...]:
    """`"3,64,64"` as `(3, 64, 64)`; raises `UsageError` for anything but positive whole numbers."""
    try:
        sides = tuple(int(part) for part in text.split(","))
    except ValueError:
        sides = ()
    if not sides or min(sides) < 1:
        raise UsageError(f"--shape {text}: give positive whole numbers, such as 3,64,64")
    return sides


def samples_of(shape: tuple[int, ...], classes: int) -> "DataSpec":
    """The description of data of which no more is known than its shape and the number of its classes."""
    from scmkit.interfaces import DataSpec

    return DataSpec("none", shape, classes, (0.0,) * shape[0], (1.0,) * shape[0])
