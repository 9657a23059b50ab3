"""Composition: from the names of plugins and their settings to a recipe, one step after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from scmkit.composing.blame import blaming
from scmkit.composing.cast import SECTIONS
from scmkit.composing.datasets import describe_data, normalized_as, resolve_data
from scmkit.composing.dotted import only, section
from scmkit.composing.filling import Filling, fill
from scmkit.composing.options import (
    cast,
    makes,
    options_of_model,
    player_settings,
    recommended,
    records,
    refuse_strangers,
    refuse_undotted,
)
from scmkit.composing.recipe import PluginRecord, Recipe, TeacherRecord
from scmkit.composing.recipe_file import read_run_recipe
from scmkit.composing.slots import RECIPE_SLOTS
from scmkit.errors import OptionError
from scmkit.interfaces import DataSpec
from scmkit.plugin import MODEL_SLOTS, Slot, StartsFrom
from scmkit.settings import TrainingSettings, configure

NO_TEACHER = "none"
"""The teacher of those who want fresh weights."""

SHARED = ("train.batch_size", "train.seed", "train.steps")
"""The user's training settings that count for a teacher trained along the way, too."""


@blaming()
def compose(
    plugins: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    data: str | DataSpec = "digits",
    teacher: str | Path | None = None,
    base: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe from plugin names and settings; defaults fill the rest.

    **Arguments:**

    - `plugins`: names; `PACKAGE:NAME` picks among packages, `SLOT=NAME` takes one slot of a plugin.
    - `settings`: `"PLUGIN.OPTION"` -> value. `train.*` are training settings, `data.*` those of the
        data, and `teacher.*` (`teacher.train.steps`) go to a teacher trained along the way.
    - `data`: an embedded data set's name, the path of a store, or a description of data that is elsewhere.
    - `teacher`: a pretrained run, whose model fills the slots that nobody named, with its options, and
        whose normalization of the data is taken over; the string `"none"` starts from fresh weights.
    - `base`: settings that count only where their plugin is part of the recipe; `settings` win.

    Raises `PluginError`, `OptionError` or `DataError`, each with its remedy.
    """
    settings, base = dict(settings or {}), dict(base or {})
    record: Mapping[str, PluginRecord] = {}
    if not isinstance(data, DataSpec):
        found = resolve_data(data, {**base, **settings})
        data, record = describe_data(found, {**base, **settings}), found.record
    start = None
    if teacher not in (None, NO_TEACHER):
        start = read_run_recipe(Path(teacher))
        if not section({**base, **settings}, "data"):
            data = normalized_as(data, start.data)
        base = {**options_of_model(start), **base}
    return compose_request(Request(tuple(plugins), settings, data, record, base, teacher, start))


@dataclass(frozen=True)
class Request:
    """What a recipe is composed from, once its data is known.

    **Arguments:**

    - `plugins`, `settings`, `base`, `teacher`: the arguments of `compose`.
    - `data`: a description of the data.
    - `dataset`: the record of the data set's plugin by name; empty for other data.
    - `start`: the recipe of the `teacher`, if that is a run.
    """

    plugins: tuple[str, ...]
    settings: Mapping[str, Any]
    data: DataSpec
    dataset: Mapping[str, PluginRecord] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | Path | None = None
    start: Recipe | None = None


def compose_request(request: Request) -> Recipe:
    """The recipe for a request."""
    given = request.settings
    refuse_undotted(given)
    filling = fill(request.plugins, request.data.shape, _plugins_of_model(request.start))
    base = only(request.base, {*filling.plugins, "train"})
    chosen = {**base, **given}
    advised = recommended(filling, request.dataset, chosen)
    before = recommended(filling, request.dataset, base) if base else {}
    # What an option recommended that now has another value is recommended anew.
    stale = {key for key in before if base.get(key) == before[key] != advised.get(key)}
    chosen = {**{key: value for key, value in base.items() if key not in stale}, **given}
    settings = {**advised, **chosen}
    train = configure(TrainingSettings, section(settings, "train"), "train")
    plugins = {*filling.plugins, *request.dataset}
    others = cast(filling, settings, train, plugins).players
    players = player_settings(others, {**request.base, **given})
    refuse_strangers(given, {*plugins, *players, *SECTIONS})
    recipe = Recipe(
        slots=_slots(filling, request.dataset),
        plugins={**request.dataset, **records(filling, settings)},
        data=request.data,
        train=train,
        players_train=players,
        trackers=filling.trackers,
        sampler=filling.owners[Slot.sampler],
        starts_from=_starts_from(filling),
        makes=makes(filling),
    )
    return recipe.replace(teacher=_teacher(recipe, request))


def _plugins_of_model(start: Recipe | None) -> dict[Slot, str]:
    """The plugins of a teacher's model by slot."""
    if start is None:
        return {}
    return {slot: start.reference(start.slots[slot]) for slot in MODEL_SLOTS}


def _slots(filling: Filling, dataset: Mapping[str, PluginRecord]) -> dict[Slot, str]:
    """The plugins of the model, of training, and of the data set if it has one, by slot."""
    slots = {slot: filling.owners[slot] for slot in RECIPE_SLOTS if slot in filling.owners}
    if dataset:
        slots[Slot.dataset] = next(iter(dataset))
    return slots


def _starts_from(filling: Filling) -> StartsFrom:
    """The most that any plugin needs to start from."""
    needs = {filling.owner(slot).starts_from for slot in filling.owners}
    return next(need for need in get_args(StartsFrom) if need in needs)


def _teacher(recipe: Recipe, request: Request) -> TeacherRecord | Recipe | None:
    """The record of a given teacher, the recipe of one to train first, or None where there is no teacher."""
    to_train = request.teacher is None and recipe.starts_from != "scratch"
    own = section(request.settings, "teacher")
    if to_train:
        return compose_request(_request_for_teacher(recipe, request, own))
    if own:
        raise OptionError(
            f"setting 'teacher.{next(iter(own))}': this run trains no teacher of its own"
        )
    if request.teacher == NO_TEACHER and recipe.starts_from == "teacher":
        raise OptionError(
            f"--teacher none: '{recipe.slots[Slot.loss]}' learns from a teacher; "
            "name a run, or leave --teacher out to train one first"
        )
    if request.teacher in (None, NO_TEACHER):
        return None
    return TeacherRecord(path=str(Path(request.teacher).resolve()))


def _request_for_teacher(recipe: Recipe, request: Request, own: Mapping[str, Any]) -> Request:
    """A diffusion model like the recipe's, on the same data, with settings of its `own` over the recipe's."""
    model = _plugins_of_model(recipe)
    names = {recipe.slots[slot] for slot in model}
    shared = {key: request.settings[key] for key in SHARED if key in request.settings}
    return Request(
        plugins=(*(f"{slot}={reference}" for slot, reference in model.items()), "diffusion"),
        settings={**only(request.settings, names), **shared, **own},
        data=recipe.data,
        dataset=request.dataset,
        base=only(request.base, names),
    )
