"""Recipes of earlier plugin APIs, as JSON, in today's form."""

from collections.abc import Collection, Mapping
from typing import Any

from scmkit.errors import OptionError, brief
from scmkit.plugin import API_VERSION, Makes, StartsFrom

_ROLES: Mapping[str, tuple[StartsFrom, Makes]] = {
    "none": ("scratch", "diffusion"),
    "initial": ("weights", "consistency"),
    "required": ("teacher", "consistency"),
}
"""What the `teacher_role` of a recipe of plugin API 1 says in today's words."""


def in_todays_form(raw: Any, fields: Collection[str], place: str = "") -> dict[str, Any]:
    """The JSON of a recipe with just these `fields`; that of a teacher is no longer wrapped in a table.

    `place` is where the recipe stands in another. Raises `ValueError` where there is no recipe of a known
    form, and `OptionError` for the recipe of a later version.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{place or 'it'} must be a table, not {brief(raw)}")
    raw = _of_version_2(raw, place)
    if missing := [name for name in fields if name not in raw]:
        raise ValueError(f"'{_joined(place, missing[0])}' is missing")
    today = {name: raw[name] for name in fields}
    teacher, its_place = raw["teacher"], _joined(place, "teacher")
    if isinstance(teacher, dict) and "recipe" in teacher:
        inner = _joined(its_place, "recipe")
        today["teacher"] = in_todays_form(teacher["recipe"], fields, inner)
    elif isinstance(teacher, dict) and "path" not in teacher:
        raise ValueError(f"'{_joined(its_place, 'path')}' is missing")
    return today


def _of_version_2(raw: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """A recipe of plugin API 1 or 2 as one of 2."""
    if "api" not in raw:
        raise ValueError(f"'{_joined(place, 'api')}' is missing")
    if raw["api"] == API_VERSION:
        return raw
    if raw["api"] != 1:
        raise OptionError(
            f"recipe of plugin API {brief(raw['api'])}, this scmkit speaks {API_VERSION}: "
            "use the scmkit version that wrote it"
        )
    role = raw.get("teacher_role")
    if not isinstance(role, str) or role not in _ROLES:
        known = " or ".join(map(repr, _ROLES))
        raise ValueError(f"{_joined(place, 'teacher_role')}: must be {known}, not {brief(role)}")
    starts_from, makes = _ROLES[role]
    today = {"starts_from": starts_from, "makes": makes, "players_train": {}}
    return {**raw, **today, "api": API_VERSION}


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
