"""Composition: from plugin names and settings to a recipe."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np

from scmkit.composing.blame import blaming
from scmkit.composing.build import build_free
from scmkit.composing.conformity import expect_array
from scmkit.composing.entries import Entry, entries, find
from scmkit.composing.loading import load
from scmkit.composing.recipe import PluginRecord, Recipe, RecipeFile, TeacherRecord, read_run_recipe
from scmkit.data import Store, spec_of
from scmkit.data.derived import data_digest
from scmkit.errors import DataError, OptionError, PluginError, did_you_mean
from scmkit.interfaces import AbstractDataset, DataSpec
from scmkit.plugin import (
    MODEL_SLOTS,
    OPTIONAL_SLOTS,
    TRAINING_SLOTS,
    Makes,
    Plugin,
    Slot,
    StartsFrom,
)
from scmkit.settings import PLAYER_OPTIONS, DataSettings, TrainingSettings, configure
from scmkit.storage.containment import exists

NORMALISATION = ("shift", "scale", "sigma_data", "clip")
"""What of a `DataSpec` says how the model sees the data, and is the teacher's where there is one."""

OWNED = (*MODEL_SLOTS, *TRAINING_SLOTS)
"""The slots a recipe needs, each with one owner."""

DEFAULTS = {
    Slot.noise: "trigflow",
    Slot.parameterization: "preconditioned",
    Slot.embedding: "positional",
    Slot.norm: "adaptive-double-norm",
    Slot.attention: "xla-attention",
    Slot.proposal: "log-normal",
    Slot.loss: "sct",
    Slot.tangent: "sct",
    Slot.distance: "l2",
}
"""What fills a slot that nobody named. The network depends on the data: see `default_network`."""


def default_network(shape: tuple[int, ...]) -> str:
    """`unet` for images of more than 256 values, else `mlp`."""
    return "unet" if len(shape) == 3 and prod(shape) > 256 else "mlp"


ELSEWHERE = {
    Slot.dataset: "--data {}",
    Slot.metric: "`scmkit eval RUN --metric {}`",
    Slot.importer: "`scmkit convert {} FILE DEST`",
    Slot.features: "`scmkit eval RUN --features {}`",
}
"""Slots of no recipe's model or training, and how their plugins are asked for."""


def _elsewhere(name: str, slot: Slot) -> str:
    kind = f"{'an' if slot[0] in 'aeiou' else 'a'} {slot}"
    return f"plugin '{name}' is {kind}; ask for it with {ELSEWHERE[slot].format(name)}"


@dataclass
class _Draft:
    """Slots being filled; `owners` says who holds each, `chosen` every plugin in play."""

    owners: dict[Slot, str] = field(default_factory=dict)
    chosen: dict[str, tuple[Entry, Plugin]] = field(default_factory=dict)

    @property
    def loss(self) -> Plugin:
        """The plugin that fills the loss slot."""
        return self.chosen[self.owners[Slot.loss]][1]

    def add(self, reference: str) -> tuple[str, Plugin]:
        entry = find(reference)
        known = self.chosen.get(entry.name)
        if known and known[0].package != entry.package:
            raise PluginError(f"'{entry.name}' named from two packages: {known[0]} and {entry}")
        if known is None:
            self.chosen[entry.name] = (entry, load(entry))
        return entry.name, self.chosen[entry.name][1]


def _fill(
    plugins: Sequence[str], shape: tuple[int, ...], inherited: Mapping[Slot, str]
) -> tuple[_Draft, list[str]]:
    """Slots from what was named, then what the named suggest, then a teacher's, then the defaults."""
    draft, trackers = _Draft(), []
    single = [p.split("=", 1) for p in plugins if "=" in p]
    whole = [p for p in plugins if "=" not in p]
    for slot_name, reference in single:
        if slot_name not in list(Slot):
            raise PluginError(
                f"no slot '{slot_name}'{did_you_mean(slot_name, list(Slot))} "
                f"(slots: {', '.join(Slot)})"
            )
        slot = Slot(slot_name)
        name, plugin = draft.add(reference)
        if slot not in plugin.provides:
            offers = ", ".join(plugin.provides)
            raise PluginError(
                f"plugin '{name}' does not fill the slot '{slot}' (it fills: {offers})"
            )
        if slot in ELSEWHERE:
            raise PluginError(_elsewhere(name, slot))
        if slot is Slot.tracker:
            trackers.append(name)
            continue
        if draft.owners.setdefault(slot, name) != name:
            raise PluginError(f"slot '{slot}' is given to both '{draft.owners[slot]}' and '{name}'")
    picked = set(draft.owners)
    for reference in dict.fromkeys(whole):
        name, plugin = draft.add(reference)
        if Slot.tracker in plugin.provides and name not in trackers:
            trackers.append(name)
        claimed = [s for s in plugin.provides if s in (*OWNED, Slot.sampler) and s not in picked]
        for slot in claimed:
            if draft.owners.setdefault(slot, name) != name:
                other = draft.owners[slot]
                raise PluginError(
                    f"plugins '{other}' and '{name}' both fill the slot '{slot}'; name only one, or "
                    f"say which: --plugin {slot}={other}"
                )
        if not claimed and Slot.tracker not in plugin.provides:
            for slot in ELSEWHERE:
                if slot in plugin.provides and not set(plugin.provides) & {*OWNED, Slot.sampler}:
                    raise PluginError(_elsewhere(name, slot))
            raise PluginError(
                f"plugin '{name}' has nothing left to fill: its slots are given to others"
            )
    suggested = {s: n for _, p in list(draft.chosen.values()) for s, n in p.suggests.items()}
    if Slot.noise in draft.owners:  # A parameterization may be for its own process only.
        inherited = {s: n for s, n in inherited.items() if s is not Slot.parameterization}
    fallback = {**DEFAULTS, Slot.network: default_network(shape), **inherited, **suggested}
    loss = draft.add(fallback[Slot.loss])[1] if Slot.loss not in draft.owners else draft.loss
    if Slot.distance not in loss.uses:
        if Slot.distance in draft.owners:
            raise PluginError(
                f"'{loss.name}' compares no samples: leave the distance "
                f"'{draft.owners[Slot.distance]}' out"
            )
        del fallback[Slot.distance]
    for slot in OWNED:
        if slot in draft.owners or slot not in fallback:
            continue
        name, plugin = draft.add(fallback[slot])
        draft.owners[slot] = name
        # A default that fills several slots (trigflow: noise and parameterization) stays together.
        for other in plugin.provides:
            if other in OWNED and other not in inherited:
                draft.owners.setdefault(other, name)
    empty = [s for s in OWNED if s not in draft.owners and s not in OPTIONAL_SLOTS]
    if empty:
        raise PluginError(
            f"no plugin fills the slot '{empty[0]}'; name one with --plugin {empty[0]}=NAME"
        )
    # Defaults have their say too: the sampler must fit the loss, whoever chose it.
    suggested = {s: n for _, p in draft.chosen.values() for s, n in p.suggests.items()} | suggested
    sampler = draft.owners.get(Slot.sampler) or suggested.get(Slot.sampler, "pf-ode")
    return draft, [sampler, *trackers]


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
    - `data`: an embedded data set's name, the path of a store, or what there is to know of data that is
        elsewhere.
    - `teacher`: a pretrained run, whose model fills the slots that nobody named, with its options, and
        whose normalisation of the data is taken over; the string `"none"` starts from fresh weights.
    - `base`: settings that count only where their plugin is part of the recipe; `settings` win.

    Raises `PluginError`, `OptionError` or `DataError`, each with its remedy.
    """
    given, record = dict(settings or {}), {}
    both = {**(base or {}), **given}
    if isinstance(data, DataSpec):
        spec = data
    else:
        dataset, source, record = resolve_data(data, both)
        data_settings = configure(DataSettings, _section(both, "data"), "data")
        spec = spec_of(dataset, source, data_settings.sigma_data, clip=data_settings.clip)
        spec = dataclasses.replace(spec, digest=data_digest(dataset))
    theirs = None
    if teacher not in (None, "none"):
        theirs = read_run_recipe(Path(teacher))
        alike = (spec.shape, spec.num_classes) == (theirs.data.shape, theirs.data.num_classes)
        if alike and not _section(both, "data"):
            spec = dataclasses.replace(spec, **{n: getattr(theirs.data, n) for n in NORMALISATION})
    return _compose(tuple(plugins), given, spec, record, teacher, base or {}, theirs)


def _compose(
    plugins: tuple[str, ...],
    given: dict[str, Any],
    spec: DataSpec,
    dataset: dict[str, PluginRecord],
    teacher: str | Path | None,
    base: Mapping[str, Any],
    theirs: Recipe | None = None,
) -> Recipe:
    for key in given:
        if not key.partition(".")[2]:
            raise OptionError(f"setting '{key}': write it as PLUGIN.OPTION=VALUE")
    inherited, options = _model_of(theirs)
    base = {**options, **base}
    draft, (sampler, *trackers) = _fill(plugins, spec.shape, inherited)
    draft.add(sampler)
    used = {*draft.owners.values(), sampler, *trackers}
    base = {k: v for k, v in base.items() if k.partition(".")[0] in {*used, "train"}}
    merged = {**_recommended(draft, used, dataset), **base, **given}
    train = configure(TrainingSettings, _section(merged, "train"), "train")
    owner = draft.owners[Slot.loss]
    players = _players(draft.chosen[owner][1], _section(merged, owner), train, given)
    sections = {*used, *dataset, *players, "train", "data", "teacher"}
    for key in given:
        section = key.partition(".")[0]
        if section not in sections:
            raise OptionError(
                f"setting '{key}': '{section}' is not part of this recipe"
                f"{did_you_mean(section, sections)} (parts: {', '.join(sorted(sections))})"
            )
    records = dict(dataset)
    for name in sorted(used):
        entry, plugin = draft.chosen[name]
        config = configure(plugin.config, _section(merged, name), name)
        records[name] = PluginRecord(entry.package, entry.version, dataclasses.asdict(config))
    needs = {draft.chosen[n][1].starts_from for n in draft.owners.values()}
    starts_from = next(need for need in get_args(StartsFrom) if need in needs)
    slots = {slot: draft.owners[slot] for slot in OWNED if slot in draft.owners}
    if dataset:
        slots[Slot.dataset] = next(iter(dataset))
    recipe = Recipe(
        slots=slots,
        plugins=records,
        data=spec,
        train=train,
        players_train=players,
        trackers=tuple(trackers),
        sampler=sampler,
        starts_from=starts_from,
        makes=_makes(draft),
    )
    return recipe.replace(teacher=_teacher(recipe, given, dataset, teacher, base))


def _model_of(theirs: Recipe | None) -> tuple[dict[Slot, str], dict[str, Any]]:
    """The plugins of a teacher's model by slot, and their options."""
    if theirs is None:
        return {}, {}
    names = {slot: theirs.slots[slot] for slot in MODEL_SLOTS}
    options = {f"{n}.{k}": v for n in names.values() for k, v in theirs.plugins[n].config.items()}
    return {slot: theirs.reference(name) for slot, name in names.items()}, options


def _players(
    plugin: Plugin,
    options: Mapping[str, Any],
    train: TrainingSettings,
    given: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """What the players beside the generator have of training settings of their own, by name."""
    own = {}
    for name, player in plugin.players(
        configure(plugin.config, options, plugin.name), train
    ).items():
        asked = {"ema": "none", **player.settings, **_section(given, name)}
        foreign = [option for option in asked if option not in PLAYER_OPTIONS]
        if foreign:
            raise OptionError(
                f"setting '{name}.{foreign[0]}': a player has no such setting of its own"
                f"{did_you_mean(foreign[0], PLAYER_OPTIONS)} (it has: {', '.join(PLAYER_OPTIONS)})"
            )
        settings = configure(TrainingSettings, asked, name)
        own[name] = {option: getattr(settings, option) for option in asked}
    return own


def _makes(draft: _Draft) -> Makes:
    """The kind of model that the loss leaves behind."""
    makes = draft.loss.makes
    assert makes is not None, "a plugin that fills the loss slot says what it makes"
    return makes


def _recommended(draft: _Draft, used: set[str], dataset: dict[str, PluginRecord]) -> dict[str, Any]:
    """What the plugins in play, and last the data set, suggest for the parts of this recipe."""
    # Slots are filled by those named, then suggested, then by default: the first named wins.
    owners = [draft.chosen[n][1] for n in reversed(dict.fromkeys(draft.owners.values()))]
    data = [load(find(f"{record.package}:{name}")) for name, record in dataset.items()]
    layers = [plugin.settings for plugin in (*owners, *data)]
    layers += [p.settings_for.get(_makes(draft), {}) for p in (*owners, *data)]
    parts = {*used, "train"}
    return {k: v for layer in layers for k, v in layer.items() if k.partition(".")[0] in parts}


def _teacher(
    recipe: Recipe,
    given: dict[str, Any],
    dataset: dict[str, PluginRecord],
    teacher: str | Path | None,
    base: Mapping[str, Any],
) -> "TeacherRecord | Recipe | None":
    """The record of a given teacher, or the recipe of the one to train."""
    own = _section(given, "teacher")
    if teacher is not None or recipe.starts_from == "scratch":
        if own:
            raise OptionError(
                f"setting 'teacher.{next(iter(own))}': this run trains no teacher of its own"
            )
        if teacher is None or (teacher == "none" and recipe.starts_from != "teacher"):
            return None
        if teacher == "none":
            raise OptionError(
                f"--teacher none: '{recipe.slots[Slot.loss]}' learns from a teacher; "
                "name a run, or leave --teacher out to train one first"
            )
        return TeacherRecord(path=str(Path(teacher).resolve()))
    model = [f"{s}={recipe.reference(recipe.slots[s])}" for s in MODEL_SLOTS]
    model_names = {recipe.slots[s] for s in MODEL_SLOTS}
    inherited = {k: v for k, v in given.items() if k.partition(".")[0] in model_names}
    for option in ("batch_size", "seed", "steps"):
        if f"train.{option}" in given:
            inherited[f"train.{option}"] = given[f"train.{option}"]
    shared = {k: v for k, v in base.items() if k.partition(".")[0] in model_names}
    settings = {**inherited, **own}
    return _compose((*model, "diffusion"), settings, recipe.data, dataset, None, shared)


def _section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        key.partition(".")[2]: value
        for key, value in settings.items()
        if key.partition(".")[0] == name
    }


def resolve_data(
    data: str, settings: Mapping[str, Any] | None = None
) -> tuple[AbstractDataset, str, dict[str, PluginRecord]]:
    """The data set behind a name or path, how to find it again, and its plugin's record if it has one."""
    names = {e.name for e in entries()}
    # A name with a suffix is one of a store, there or not: no plugin is called so.
    is_path = "/" in data or os.sep in data or exists(Path(data)) or bool(Path(data).suffix)
    if is_path and data not in names:
        return Store(data), str(Path(data).resolve()), {}
    if ":" not in data and data not in names:
        raise PluginError(
            f"no data '{data}': no plugin has that name{did_you_mean(data, names)}, and no store is at that "
            "path; `scmkit data import SOURCE DEST` makes one"
        )
    entry = find(data)
    own = _section(settings or {}, entry.name)
    dataset = _dataset(data, own)
    config = configure(load(entry).config, own, entry.name)
    record = PluginRecord(entry.package, entry.version, dataclasses.asdict(config))
    return dataset, entry.name, {entry.name: record}


@blaming()
def dataset_of(recipe: Recipe) -> AbstractDataset:
    """The data set a recipe was composed for.

    Raises `DataError` that says what has changed where it is another one by now.
    """
    if Slot.dataset not in recipe.slots:
        if not exists(Path(recipe.data.source)):
            raise DataError(
                f"{recipe.data.source}: the store that the run was trained on is gone; move it back there, "
                "or put a link there to where it is now"
            )
        dataset = Store(recipe.data.source)
    else:
        name = recipe.slots[Slot.dataset]
        dataset = _dataset(recipe.reference(name), recipe.plugins[name].config)
    if changed := _changes(recipe.data, dataset):
        raise DataError(
            f"data '{recipe.data.source}' is not what it was when the run began: {'; '.join(changed)}; put "
            "that back, or begin a new run (`scmkit train --teacher RUN` starts from the old one's weights)"
        )
    return dataset


def _changes(spec: DataSpec, dataset: AbstractDataset) -> list[str]:
    """What of a data set is not as a recipe has it, as far as that was recorded."""
    changed = []
    if dataset.shape != spec.shape:
        changed.append(f"its samples are of shape {dataset.shape}, not {spec.shape}")
    if dataset.num_classes != spec.num_classes:
        now, then = (
            f"{n} classes" if n else "no labels" for n in (dataset.num_classes, spec.num_classes)
        )
        changed.append(f"it has {now}, not {then}")
    if changed or spec.digest is None:
        return changed
    return list(data_digest(dataset).differences(spec.digest))


def _dataset(reference: str, settings: Mapping[str, Any]) -> AbstractDataset:
    """The data set of a plugin, whose first sample was looked at: all are of its kind."""
    dataset: AbstractDataset = build_free(Slot.dataset, reference, settings)
    samples, labels = dataset.read("train", np.zeros(1, np.int64))
    expect_array(dataset, "dataset", samples, (1, *dataset.shape), np.float32)
    if labels is not None:
        expect_array(dataset, "dataset as labels", labels, (1,), np.int32)
    return dataset


def override(file: RecipeFile, named: Sequence[str]) -> RecipeFile:
    """What a recipe file asks for, less what plugins `named` beside it take over."""
    taken: set[Slot] = set()
    for reference in named:
        slot, equals, name = reference.rpartition("=")
        provides = load(find(name)).provides
        taken |= {Slot(slot)} if equals and slot in list(Slot) else set(provides)

    def stays(reference: str) -> bool:
        slot, equals, name = reference.rpartition("=")
        if equals:
            return slot not in taken
        return not taken.intersection(load(find(name)).provides).intersection(OWNED)

    kept = tuple(reference for reference in file.plugins if stays(reference))
    return dataclasses.replace(file, plugins=(*kept, *named))
