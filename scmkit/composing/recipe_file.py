"""Recipe files: the `recipe.json` of a run, and what people write by hand for `--recipe`."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmkit.composing.dotted import flatten
from scmkit.composing.entries import find
from scmkit.composing.loading import load
from scmkit.composing.recipe import Recipe
from scmkit.composing.slots import RECIPE_SLOTS
from scmkit.errors import OptionError, RunError, UsageError, brief
from scmkit.interfaces import DataSpec
from scmkit.plugin import OPTIONAL_SLOTS, Slot
from scmkit.storage.containment import exists, parse_json, parse_toml, read_bounded


def read_run_recipe(run: Path) -> Recipe:
    """The recipe of the run at a path; raises `UsageError` if there is none, `RunError` for a torn one."""
    file = run / "recipe.json"
    if not exists(run) or not file.is_file():
        kind = "no such directory"
        if exists(run):
            kind = "it has no recipe.json; if its start was cut short, `scmkit train` with that --name again"
        raise UsageError(f"'{run}' is not a run: {kind}")
    try:
        raw = parse_json(read_bounded(file))
    except (OSError, ValueError) as error:
        raise RunError(f"'{file}' cannot be read: {error}; restore it from a backup") from None
    if not isinstance(raw, dict):
        raise RunError(
            f"'{file}' holds no recipe but a {type(raw).__name__}; restore it from a backup"
        )
    try:
        return Recipe.from_json(raw)
    except OptionError as error:
        raise OptionError(f"'{file}': {error}") from None


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe file asks for: arguments of `compose`."""

    plugins: tuple[str, ...]
    settings: Mapping[str, Any]
    data: str | None = None
    complete: bool = False
    """Whether it is a run's, with settings of every part: those of parts replaced do not matter."""
    spec: DataSpec | None = None
    """What a run records of its data."""


def read_recipe(path: Path) -> RecipeFile:
    """Read a `.json` or `.toml` file, hand-written or the `recipe.json` of a run.

    Hand-written files hold `plugins = [...]`, `data = "..."` and tables of settings by plugin
    (`[settings.scd]`). Raises `OptionError` naming the file and what is wrong.
    """
    try:
        parse = parse_toml if path.suffix == ".toml" else parse_json
        raw = parse(read_bounded(path))
    except (OSError, ValueError) as error:
        raise OptionError(f"recipe file '{path}' cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise OptionError(f"recipe file '{path}' must hold a table, not a {type(raw).__name__}")
    try:
        return _of_run(Recipe.from_json(raw)) if "slots" in raw else _by_hand(raw)
    except OptionError as error:
        raise OptionError(f"recipe file '{path}': {error}") from None


def _of_run(recipe: Recipe) -> RecipeFile:
    """The arguments of `compose` that make the recipe of a run again."""
    settings: dict[str, Any] = {name: record.config for name, record in recipe.plugins.items()}
    settings["train"] = dataclasses.asdict(recipe.train)
    settings["data"] = {"sigma_data": recipe.data.sigma_data, "clip": recipe.data.clip}
    settings |= recipe.players_train
    slots = {slot: name for slot, name in recipe.slots.items() if slot is not Slot.dataset}
    slots[Slot.sampler] = recipe.sampler
    named = [f"{slot}={recipe.reference(name)}" for slot, name in slots.items()]
    trackers = map(recipe.reference, recipe.trackers)
    return RecipeFile(
        (*named, *trackers), flatten(settings), recipe.data.source, complete=True, spec=recipe.data
    )


def _by_hand(raw: Mapping[str, Any]) -> RecipeFile:
    """The arguments of `compose` that somebody wrote."""
    unknown = set(raw) - {"plugins", "settings", "data"}
    if unknown:
        raise OptionError(f"unknown key '{min(unknown)}' (keys: plugins, settings, data)")
    plugins, settings = raw.get("plugins", []), raw.get("settings", {})
    if not isinstance(plugins, list) or not isinstance(settings, dict):
        raise OptionError("plugins must be a list and settings a table")
    data = raw.get("data")
    if not isinstance(data, str | None):
        raise OptionError(f"data must be a name or a path, not {brief(data)}")
    return RecipeFile(tuple(map(str, plugins)), flatten(settings), data)


def override(file: RecipeFile, named: Sequence[str]) -> RecipeFile:
    """What a recipe file asks for, less what plugins `named` beside it take over."""
    taken: set[Slot] = set()
    for reference in named:
        slot, equals, name = reference.rpartition("=")
        plugin = load(find(name))
        filled = {Slot(slot)} if equals and slot in list(Slot) else set(plugin.provides)
        taken |= filled
        if Slot.loss in filled:  # What served the other loss only goes with it.
            taken |= {Slot.sampler, *OPTIONAL_SLOTS}.difference(plugin.uses)

    def stays(reference: str) -> bool:
        slot, equals, name = reference.rpartition("=")
        if equals:
            return slot not in taken
        return not taken.intersection(load(find(name)).provides).intersection(RECIPE_SLOTS)

    kept = tuple(reference for reference in file.plugins if stays(reference))
    return dataclasses.replace(file, plugins=(*kept, *named))
