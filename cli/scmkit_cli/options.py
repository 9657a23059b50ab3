"""Options that several commands share."""

from typing import Annotated, Any

import typer

from scmkit.errors import OptionError

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PLUGIN.OPTION=VALUE",
        help="Set an option; `scmkit plugins info PLUGIN` lists them. Repeatable.",
    ),
]


def parse_settings(given: list[str] | None) -> dict[str, Any]:
    """`["a.b=c"]` as `{"a.b": "c"}`; raises `OptionError` for anything else."""
    settings = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
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
