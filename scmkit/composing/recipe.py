"""Recipes: which plugin fills which slot with which options, as data."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Tag,
    TypeAdapter,
    with_config,
)

from scmkit.composing.cast import Cast, cast_of, own_settings
from scmkit.composing.entries import Entry, find
from scmkit.composing.loading import load
from scmkit.composing.recipe_versions import in_todays_form
from scmkit.composing.slots import RECIPE_SLOTS, SLOTS
from scmkit.composing.strict_json import read_strictly
from scmkit.errors import OptionError, brief
from scmkit.interfaces import DataSpec
from scmkit.plugin import (
    API_VERSION,
    TRAINING_SLOTS,
    Factory,
    Follower,
    Makes,
    Player,
    Plugin,
    Slot,
    StartsFrom,
)
from scmkit.settings import PLAYER_OPTIONS, TrainingSettings, configure


def _named(text: str) -> str:
    # Names find plugins, and paths are opened.
    if "\0" in text:
        raise ValueError("must be text without the character NUL")
    return text


def _frozen(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a number must be finite, not {value}")
    # JSON has lists only; frozen options hold tuples, and recipes compare equal only with those.
    if isinstance(value, dict):
        return {key: _frozen(one) for key, one in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _of_players(players: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    checked = {name: configure(TrainingSettings, own, name) for name, own in players.items()}
    return {
        name: {option: getattr(checked[name], option) for option in own if option in PLAYER_OPTIONS}
        for name, own in players.items()
    }


def _whole(recipe: "Recipe") -> "Recipe":
    """A recipe that was read, in which no slot is empty and every name is that of a recorded plugin."""
    for slot in RECIPE_SLOTS:
        if slot not in recipe.slots and not SLOTS[slot].optional:
            raise ValueError(f"slots: no plugin fills the slot '{slot}'")
    for slot, name in recipe.slots.items():
        if name not in recipe.plugins:
            raise ValueError(f"{brief(name)} of slot '{slot}' is not among its plugins")
    for name in recipe.trackers:
        if name not in recipe.plugins:
            raise ValueError(f"{brief(name)} of its trackers is not among its plugins")
    source = _named(recipe.data.source)
    if recipe.slots.get(Slot.dataset, source) != source:
        raise ValueError(
            f"its data is {brief(source)}, and {brief(recipe.slots[Slot.dataset])} in its slots"
        )
    return recipe


Name = Annotated[str, AfterValidator(_named)]
Options = Annotated[Mapping[str, Any], AfterValidator(_frozen)]


@dataclass(frozen=True)
class PluginRecord:
    """A plugin as a recipe records it: where it came from and its resolved options."""

    package: Name
    version: Name
    config: Options


@dataclass(frozen=True)
class TeacherRecord:
    """The pretrained run that training starts from: its path and its checkpoint's digest."""

    path: Name
    digest: Name | None = None


def _kind_of_teacher(raw: Any) -> str:
    return "recipe" if isinstance(raw, dict) and "path" not in raw else ""


@with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
@dataclass(frozen=True)
class Recipe:
    """Everything a run is made from; JSON in `recipe.json`, and rebuilding from it is exact.

    `teacher` is a recipe where the teacher has yet to be trained as part of the run. The annotations are what
    JSON is checked by when a recipe is read; options of plugins are checked when their plugin is loaded.
    """

    slots: Mapping[Slot, Name]
    plugins: Mapping[Name, PluginRecord]
    data: DataSpec
    train: TrainingSettings
    players_train: Annotated[Mapping[Name, Mapping[str, Any]], AfterValidator(_of_players)] = field(
        default_factory=dict
    )
    """Training settings that players beside the generator have of their own, by name."""
    trackers: tuple[Name, ...] = ()
    sampler: Name = "pf-ode"
    teacher: (
        Annotated[
            Annotated[TeacherRecord, Tag("")]
            | Annotated["Recipe", AfterValidator(_whole), Tag("recipe")],
            Discriminator(_kind_of_teacher),
        ]
        | None
    ) = None
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
    def from_json(raw: Any) -> "Recipe":
        """The recipe that `to_json` wrote; raises `OptionError` naming what does not fit."""
        try:
            today = in_todays_form(raw, [f.name for f in dataclasses.fields(Recipe)])
            return read_strictly(_adapter(), today, _known_fields())
        except ValueError as error:
            raise OptionError(f"not a recipe: {error}") from None
        except RecursionError:
            raise OptionError("not a recipe: it is nested too deeply") from None

    def plugin(self, name: str) -> tuple[Entry, Plugin, Any]:
        """The entry, plugin and resolved configuration behind a recorded name."""
        record = self.plugins[name]
        entry = find(self.reference(name))
        plugin = load(entry)
        return entry, plugin, configure(plugin.config, record.config, name)

    @cached_property
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

    @cached_property
    def cast(self) -> Cast:
        """Who plays, who follows and when stages begin, as the loss says; raises as `cast_of` does."""
        return cast_of(*self.plugin(self.slots[Slot.loss]), self.train, self.plugins)

    @property
    def players(self) -> Mapping[str, Player]:
        """What is trained beside the generator, by name."""
        return self.cast.players

    def settings_of(self, player: str) -> TrainingSettings:
        """The training settings of a player beside the generator: the recipe's, but for its own."""
        own = self.players_train.get(player)
        if own is None:  # The plugin has a player more than when the recipe was written.
            own = own_settings(self.players[player])
        return dataclasses.replace(self.train, **own)

    @property
    def followers(self) -> Mapping[str, Follower]:
        """What lags behind a player, by name."""
        return self.cast.followers

    @property
    def memories(self) -> Mapping[str, Factory]:
        """The factories of what is remembered of the data, by name."""
        return self.cast.memories

    @property
    def stages(self) -> tuple[int, ...]:
        """The steps at which a new stage of training begins."""
        return self.cast.stages

    def reference(self, name: str) -> str:
        """`PACKAGE:NAME` of a recorded plugin."""
        return f"{self.plugins[name].package}:{name}"

    def recorded(self, name: str) -> tuple[str, Mapping[str, Any]]:
        """A recorded plugin as `PACKAGE:NAME`, and its options; another's name as it is, and none."""
        own = name.rpartition(":")[2]
        if own not in self.plugins or name not in (own, self.reference(own)):
            return name, {}
        return self.reference(own), self.plugins[own].config

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


@cache
def _adapter() -> TypeAdapter:
    return TypeAdapter(Annotated[Recipe, AfterValidator(_whole)])


@cache
def _known_fields() -> frozenset[str]:
    kinds = (TrainingSettings, DataSpec, PluginRecord, TeacherRecord)
    return frozenset(f.name for kind in kinds for f in dataclasses.fields(kind))
