"""JSON of strangers as frozen dataclasses: strict types, and one line on what does not fit."""

import json
from collections.abc import Collection
from typing import Any

from pydantic import TypeAdapter, ValidationError

from scmkit.errors import brief, did_you_mean

MOST = 100_000
"""The largest number of values in a document; pydantic keeps an error for every bad one."""


def read_strictly(adapter: TypeAdapter, raw: Any, known: Collection[str] = ()) -> Any:
    """An instance of the adapter's type from JSON values.

    Tables become dataclasses and lists become tuples; otherwise no type is taken for another, such as text or
    `true` for a number. `known` are field names that a misspelt one may stand for. Raises `ValueError` of one
    line, which names the field and its value.
    """
    try:
        text = json.dumps(raw)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from None
    _measure(raw)
    try:
        # Pydantic's strict mode takes tables for dataclasses and lists for tuples in text alone.
        return adapter.validate_json(text)
    except ValidationError as error:
        raise ValueError(_told(error, known)) from None


def _measure(raw: Any) -> None:
    """Raises `ValueError` for a document of more than `MOST` values."""
    level, seen = [raw], 0
    while level:
        seen += len(level)
        if seen > MOST:
            raise ValueError(f"it has more than {MOST} values")
        tables = [value for value in level if isinstance(value, dict | list | tuple)]
        inner = (table.values() if isinstance(table, dict) else table for table in tables)
        level = [value for values in inner for value in values]


def _told(error: ValidationError, known: Collection[str]) -> str:
    """The first of pydantic's errors in one line."""
    first = error.errors(include_url=False)[0]
    kind, value = first["type"], first["input"]
    # Pydantic's own marks in a path: a key that is at fault itself, and the nameless branch of a union.
    path = [str(part) for part in first["loc"] if part not in ("", "[key]")]
    place = ".".join(part if len(part) <= 40 else f"{part[:37]}..." for part in path)
    if kind == "missing":
        return f"'{place}' is missing"
    if kind == "unexpected_keyword_argument":
        return f"there is no '{place}'{did_you_mean(path[-1], known)}"
    if kind == "value_error":
        told = str(first.get("ctx", {})["error"])
        return f"{place}: {told}" if place else told
    told = first["msg"][0].lower() + first["msg"][1:]
    return f"{place or 'it'}: {told}, not {brief(value)}"
