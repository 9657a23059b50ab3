"""`scmkit plugins`."""

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scmkit.composing.blame import is_signal
from scmkit.errors import ScmkitError
from scmkit_cli.options import Settings, by_plugin, options_of, parse_settings
from scmkit_cli.streams import alone, print_json
from scmkit_cli.terminal import say

if TYPE_CHECKING:
    from scmkit.plugin import Plugin
    from scmkit.settings import TrainingSettings

STARTS = {
    "teacher": "a teacher, which it needs throughout",
    "weights": "a teacher's weights",
    "scratch": "scratch",
}
"""What a method starts from, in words."""

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", callback=alone, help="One JSON object a line.")
    ] = False,
    load: Annotated[
        bool, typer.Option("--load", help="Import each plugin and show its slots and summary.")
    ] = False,
) -> None:
    """List the installed plugins, from metadata alone; nothing is imported."""
    from scmkit.composing.entries import entries, problem

    if load:
        from scmkit.composing.environment import require_jax

        require_jax()
    rows, installed = [], entries()
    for entry in installed:
        row = {"name": entry.name, "package": entry.package, "version": entry.version}
        why = problem(entry, installed)
        if load and why is None:
            from scmkit.composing.loading import load as load_plugin

            try:
                plugin = load_plugin(entry)
                row |= {"slots": list(map(str, plugin.provides)), "summary": plugin.summary}
            except ScmkitError as error:
                why = str(error)
        rows.append(row | ({"broken": why} if why else {}))
    if as_json:
        for row in rows:
            print_json(context, row)
        return
    name_width = max((len(r["name"]) for r in rows), default=0)
    package_width = max((len(f"{r['package']} {r['version']}") for r in rows), default=0)
    for row in rows:
        package = f"{row['package']} {row['version']}"
        about = f"  {', '.join(row['slots'])}: {row['summary']}" if "slots" in row else ""
        broken = f"  BROKEN: {row['broken']}" if "broken" in row else ""
        say(f"{row['name']:<{name_width}}  {package:<{package_width}}{about}{broken}".rstrip())


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(help="NAME or PACKAGE:NAME; 'train' or 'data' for settings.")
    ],
    beside: Annotated[
        list[str] | None,
        typer.Option("--plugin", "-p", help="A network's size beside this plugin. Repeatable."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="C,H,W", help="A network's size on samples of this shape."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=0, help="A network's size with this many classes.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Describe a plugin: its slots, summary and options, who plays in a method, and a network's size.

    Sizes are of every preset that was not set, computed from shapes: nothing is allocated. What a plugin
    suggests may depend on its options, such as those set.

    Example: scmkit plugins info dit -p adaln --set dit.preset=XL
    """
    from scmkit.settings import DataSettings, TrainingSettings, option_help

    sizes = None
    builtin = {"train": TrainingSettings, "data": DataSettings}
    if name in builtin:
        say(f"{name}: settings of every run, as --set {name}.OPTION=VALUE")
        options = option_help(builtin[name])
    else:
        from scmkit.composing.entries import find
        from scmkit.composing.loading import load
        from scmkit.composing.options import settings_of
        from scmkit.plugin import Slot
        from scmkit_cli.players import print_players
        from scmkit_cli.sizes import print_sizes

        entry = find(name)
        plugin = load(entry)
        say(f"{entry.name}  {entry.package} {entry.version}")
        say(plugin.summary)
        say(f"slots: {', '.join(plugin.provides)}")
        if plugin.makes:
            say(f"makes: a {plugin.makes} model, starting from {STARTS[plugin.starts_from]}")
        if Slot.sampler in plugin.provides:
            say(f"samples from: {', '.join(plugin.samples_from)} models")
        for slot, other in plugin.suggests.items():
            say(f"suggests: {slot} = {other}")
        own = by_plugin(parse_settings(settings)).get(entry.name, {})
        for key, value in settings_of(plugin, own).items():
            say(f"suggests: --set {key}={_typed(value)}")
        for makes, suits in plugin.settings_for.items():
            shown = " ".join(f"--set {key}={_typed(value)}" for key, value in suits.items())
            say(f"suggests for {makes} models: {shown}")
        print_players(plugin, *_configured(plugin, entry.name, parse_settings(settings)))
        options = option_help(plugin.config)
        sizes = print_sizes if Slot.network in plugin.provides else None
    if options:
        say(f"options (--set {name}.OPTION=VALUE):")
    for option in options:
        say(f"  {option.name} = {option.default}  ({option.type})")
        if option.summary:
            say(f"      {option.summary}")
    if sizes:
        sizes(name, beside or [], shape, classes, parse_settings(settings))


def _configured(
    plugin: "Plugin", name: str, settings: dict[str, Any]
) -> "tuple[Any, TrainingSettings]":
    """The plugin's options and the training settings that a recipe with these settings would have."""
    from scmkit.composing.options import settings_of
    from scmkit.settings import TrainingSettings, configure

    recommended = settings_of(plugin, by_plugin(settings).get(name, {}))
    given = by_plugin({**recommended, **settings})
    own, train = given.get(name, {}), given.get("train", {})
    return configure(plugin.config, own, name), configure(TrainingSettings, train, "train")


def _typed(value: object) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _two_devices() -> None:
    """Make two devices of the CPU for checks that need them, where nothing says how many there are."""
    import os

    import jax

    if "device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # Devices are there already.
            jax.config.update("jax_num_cpu_devices", 2)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="NAME or PACKAGE:NAME.")],
    settings: Settings = None,
) -> None:
    """Run the conformance checks for every slot a plugin fills.

    Example: scmkit plugins check inception --set inception.weights=FILE
    """
    from scmkit.composing.entries import find
    from scmkit.composing.loading import load
    from scmkit.settings import configure
    from scmkit.testing import checks

    entry = find(name)
    options = options_of(entry.name, settings)
    _two_devices()
    plugin = load(entry)
    if options:
        configure(plugin.config, options, entry.name)
    failed = 0
    for one in checks(plugin, config=options):
        try:
            one.run()
            say(f"ok      {one.name}")
        except BaseException as error:
            if is_signal(error):
                raise
            failed += 1
            first = str(error).strip().splitlines() or [""]
            say(f"FAILED  {one.name}: {type(error).__name__}: {first[0]}")
    if failed:
        raise ScmkitError(f"{entry}: {failed} conformance check{'s' if failed > 1 else ''} failed")
