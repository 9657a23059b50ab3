"""Recipes: which plugin fills which slot with which options, as data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from scmkit.composing.entries import Entry, find
from scmkit.composing.loading import load
from scmkit.errors import OptionError, RunError, UsageError
from scmkit.interfaces import DataSpec
from scmkit.plugin import (
    API_VERSION,
    MODEL_SLOTS,
    OPTIONAL_SLOTS,
    TRAINING_SLOTS,
    Follower,
    Makes,
    Player,
    Plugin,
    Slot,
    StartsFrom,
)
from scmkit.settings import PLAYER_OPTIONS, TrainingSettings, configure
from scmkit.storage.containment import exists, parse_json, parse_toml, read_bounded


@dataclass(frozen=True)
class PluginRecord:
    """A plugin as a recipe records it: where it came from and its resolved options."""

    package: str
    version: str
    config: Mapping[str, Any]


def _text(value: Any, what: str) -> str:
    # Names find plugins, and paths are opened: neither is anything but text.
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{what} is no text")
    return value


def _record(package: str, version: str, config: Mapping[str, Any]) -> PluginRecord:
    _text(package, "a package")
    _text(version, "a version")
    # JSON has lists only; frozen options hold tuples, and recipes compare equal only with those.
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return PluginRecord(package, version, values)


def _player(name: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
    _text(name, "a player")
    settings = configure(TrainingSettings, own, name)
    return {option: getattr(settings, option) for option in own if option in PLAYER_OPTIONS}


@dataclass(frozen=True)
class TeacherRecord:
    """The pretrained run that training starts from: its path and its checkpoint's digest."""

    path: str
    digest: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything a run is made from; JSON in `recipe.json`, and rebuilding from it is exact.

    `teacher` is a recipe where the teacher has yet to be trained as part of the run.
    """

    slots: Mapping[Slot, str]
    plugins: Mapping[str, PluginRecord]
    data: DataSpec
    train: TrainingSettings
    players_train: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Training settings that players beside the generator have of their own, by name."""
    trackers: tuple[str, ...] = ()
    sampler: str = "pf-ode"
    teacher: "TeacherRecord | Recipe | None" = None
    starts_from: StartsFrom = "scratch"
    makes: Makes = "diffusion"
    api: int = API_VERSION

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        out = dataclasses.asdict(self)
        out["slots"] = {str(k): v for k, v in self.slots.items()}
        if isinstance(self.teacher, Recipe):
            out["teacher"] = {"recipe": self.teacher.to_json()}
        return out

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "Recipe":
        """The recipe that `to_json` wrote; raises `OptionError` naming what does not fit."""
        try:
            if raw["api"] == 1:
                raw = _from_version_1(raw)
            if raw["api"] != API_VERSION:
                raise OptionError(
                    f"recipe of plugin API {raw['api']}, this scmkit speaks {API_VERSION}: "
                    "use the scmkit version that wrote it"
                )
            teacher = raw["teacher"]
            if teacher is not None:
                nested = "recipe" in teacher
                teacher = (
                    Recipe.from_json(teacher["recipe"]) if nested else TeacherRecord(**teacher)
                )
            if isinstance(teacher, TeacherRecord):
                _text(teacher.path, "the teacher's path")
                _text(teacher.digest or "", "the teacher's digest")
            for field, kind in (("starts_from", StartsFrom), ("makes", Makes)):
                if raw[field] not in get_args(kind):
                    raise ValueError(f"{field} {str(raw[field])[:80]!r}")
            slots = {Slot(k): _text(v, f"slot '{k}'") for k, v in raw["slots"].items()}
            for slot in (*MODEL_SLOTS, *TRAINING_SLOTS):
                if slot in OPTIONAL_SLOTS and slot not in slots:
                    continue
                if slots[slot] not in raw["plugins"]:
                    raise OptionError(
                        f"not a recipe: '{slots[slot]}' of slot '{slot}' is not among its plugins"
                    )
            for name in (*slots.values(), *raw["trackers"]):
                if _text(name, "a tracker") not in raw["plugins"]:
                    raise OptionError(f"not a recipe: '{name}' is not among its plugins")
            source = _text(raw["data"].get("source"), "the data's source")
            if slots.get(Slot.dataset, source) != source:
                raise OptionError(
                    f"not a recipe: its data is '{source[:80]}', and '{slots[Slot.dataset]}' in its slots"
                )
            return Recipe(
                slots=slots,
                plugins={k: _record(**v) for k, v in raw["plugins"].items()},
                data=configure(DataSpec, raw["data"], "data"),
                train=configure(TrainingSettings, raw["train"], "train"),
                players_train={
                    name: _player(name, own) for name, own in raw["players_train"].items()
                },
                trackers=tuple(raw["trackers"]),
                sampler=_text(raw["sampler"], "the sampler"),
                teacher=teacher,
                starts_from=raw["starts_from"],
                makes=raw["makes"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise OptionError(f"not a recipe: {type(error).__name__}: {error}") from None

    def plugin(self, name: str) -> tuple[Entry, Plugin, Any]:
        """The entry, plugin and resolved configuration behind a recorded name."""
        record = self.plugins[name]
        entry = find(self.reference(name))
        plugin = load(entry)
        return entry, plugin, configure(plugin.config, record.config, name)

    @property
    def conditions(self) -> frozenset[str]:
        """What the model is told beside time and label, as its loss and tangent ask for."""
        asked = (
            self.plugin(name)
            for name in dict.fromkeys(self.slots[s] for s in TRAINING_SLOTS if s in self.slots)
        )
        return frozenset(c for _, plugin, config in asked for c in plugin.conditions(config))

    @property
    def drops_labels(self) -> bool:
        """Whether the loss shows the model samples without their label, as guidance needs."""
        _, plugin, config = self.plugin(self.slots[Slot.loss])
        return plugin.drops_labels(config)

    @property
    def noise_labels(self) -> Literal[1, 2]:
        """Times the model is told, as its loss asks for."""
        return self.plugin(self.slots[Slot.loss])[1].noise_labels

    @property
    def players(self) -> Mapping[str, Player]:
        """What is trained beside the generator, by name."""
        _, plugin, config = self.plugin(self.slots[Slot.loss])
        return plugin.players(config, self.train)

    def settings_of(self, player: str) -> TrainingSettings:
        """The training settings of a player beside the generator: the recipe's, but for its own."""
        return dataclasses.replace(self.train, **self.players_train[player])

    @property
    def followers(self) -> Mapping[str, Follower]:
        """What lags behind a player, by name."""
        _, plugin, config = self.plugin(self.slots[Slot.loss])
        return plugin.followers(config, self.train)

    @property
    def stages(self) -> tuple[int, ...]:
        """The steps at which a new stage of training begins."""
        _, plugin, config = self.plugin(self.slots[Slot.loss])
        return plugin.stages(config, self.train)

    def reference(self, name: str) -> str:
        """`PACKAGE:NAME` of a recorded plugin."""
        return f"{self.plugins[name].package}:{name}"

    def recorded(self, name: str) -> tuple[str, Mapping[str, Any]]:
        """A recorded plugin as `PACKAGE:NAME`, and its options; another's name as it is, and none."""
        if name not in self.plugins:
            return name, {}
        return self.reference(name), self.plugins[name].config

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


_VERSION_1: Mapping[str, tuple[StartsFrom, Makes]] = {
    "none": ("scratch", "diffusion"),
    "initial": ("weights", "consistency"),
    "required": ("teacher", "consistency"),
}
"""What the `teacher_role` of a recipe of plugin API 1 says in today's words."""


def _from_version_1(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe of plugin API 1 in today's form."""
    role = raw["teacher_role"]
    if role not in _VERSION_1:
        raise ValueError(f"teacher_role {str(role)[:80]!r}")
    starts_from, makes = _VERSION_1[role]
    return {
        **raw,
        "api": API_VERSION,
        "starts_from": starts_from,
        "makes": makes,
        "players_train": {},
    }


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
    if "slots" in raw:
        try:
            recipe = Recipe.from_json(raw)
        except OptionError as error:
            raise OptionError(f"recipe file '{path}': {error}") from None
        config = {n: dict(r.config) for n, r in recipe.plugins.items()}
        config["train"] = dataclasses.asdict(recipe.train)
        config["data"] = {"sigma_data": recipe.data.sigma_data}
        named = [
            f"{s}={recipe.reference(n)}" for s, n in recipe.slots.items() if s is not Slot.dataset
        ]
        trackers = map(recipe.reference, recipe.trackers)
        return RecipeFile((*named, *trackers), flatten(config), recipe.data.source, complete=True)
    unknown = set(raw) - {"plugins", "settings", "data"}
    if unknown:
        raise OptionError(
            f"recipe file '{path}': unknown key '{min(unknown)}' (keys: plugins, settings, data)"
        )
    plugins, settings = raw.get("plugins", []), raw.get("settings", {})
    if not isinstance(plugins, list) or not isinstance(settings, dict):
        raise OptionError(f"recipe file '{path}': plugins must be a list and settings a table")
    data = raw.get("data")
    if not isinstance(data, str | None):
        raise OptionError(f"recipe file '{path}': data must be a name or a path, not {data!r}")
    return RecipeFile(tuple(map(str, plugins)), flatten(settings), data)


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    flat = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
