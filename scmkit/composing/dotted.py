"""Settings in one table, under dotted names: `PLUGIN.OPTION`."""

from collections.abc import Collection, Mapping
from typing import Any


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    flat = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def part(key: str) -> str:
    """The part of a recipe that a setting is for: `"mlp"` of `"mlp.width"`."""
    return key.partition(".")[0]


def section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of one part, without its name."""
    return {key.partition(".")[2]: v for key, v in settings.items() if part(key) == name}


def only(settings: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """The settings of some parts."""
    return {key: value for key, value in settings.items() if part(key) in parts}
