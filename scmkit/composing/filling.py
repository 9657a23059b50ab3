"""Who fills which slot: plugins that were named, then a teacher's, those suggested, and the defaults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scmkit.composing.entries import Entry, find
from scmkit.composing.loading import load
from scmkit.composing.slots import RECIPE_SLOTS, SLOTS, draws_from, own_sampler
from scmkit.errors import PluginError, did_you_mean
from scmkit.plugin import OPTIONAL_SLOTS, Plugin, Slot

CLAIMED = (*RECIPE_SLOTS, Slot.sampler)
"""The slots of one owner each, which a plugin named as a whole claims; trackers may be many."""

UNUSED = {
    Slot.encoder: "does not look at features of samples",
    Slot.distance: "compares no samples",
    Slot.coupling: "does not look at the noise of a coupling",
}
"""What a loss does that has no use for an optional slot."""


@dataclass(frozen=True)
class Filling:
    """The plugins of a recipe, and the slots they fill.

    **Arguments:**

    - `owners`: the name of each slot's plugin; those named first come first.
    - `trackers`: the names of the plugins that track the run.
    - `plugins`: all of these by name.
    """

    owners: Mapping[Slot, str]
    trackers: tuple[str, ...]
    plugins: Mapping[str, tuple[Entry, Plugin]]

    def owner(self, slot: Slot) -> Plugin:
        """The plugin that fills a slot."""
        return self.plugins[self.owners[slot]][1]


@dataclass
class _Draft:
    """A filling in the making; only the steps of `fill` change it."""

    owners: dict[Slot, str] = field(default_factory=dict)
    trackers: list[str] = field(default_factory=list)
    plugins: dict[str, tuple[Entry, Plugin]] = field(default_factory=dict)

    def load(self, reference: str) -> tuple[str, Plugin]:
        """The name and plugin behind `NAME` or `PACKAGE:NAME`, which is part of the recipe from now on."""
        entry = find(reference)
        known = self.plugins.get(entry.name)
        if known and known[0].package != entry.package:
            raise PluginError(f"'{entry.name}' named from two packages: {known[0]} and {entry}")
        if known is None:
            self.plugins[entry.name] = (entry, load(entry))
        return entry.name, self.plugins[entry.name][1]

    def load_unnamed(self, slot: Slot, reference: str) -> tuple[str, Plugin]:
        """The same for a slot that nobody named; errors say which plugin suggested it, if one did."""
        asking = [
            e for e, plugin in self.plugins.values() if plugin.suggests.get(slot) == reference
        ]
        told = f"{asking[-1]} suggests '{reference}' as {slot}: " if asking else ""
        try:
            name, plugin = self.load(reference)
            _expect_slot(name, plugin, slot)
        except PluginError as error:
            raise PluginError(f"{told}{error}") from error
        return name, plugin

    def track(self, name: str) -> None:
        """One tracker more, however often it is named."""
        if name not in self.trackers:
            self.trackers.append(name)

    def suggested(self) -> dict[Slot, str]:
        """The suggestions of all plugins so far; of several for one slot, the last."""
        plugins = [plugin for _, plugin in self.plugins.values()]
        return {slot: name for plugin in plugins for slot, name in plugin.suggests.items()}


def fill(plugins: Sequence[str], shape: tuple[int, ...], inherited: Mapping[Slot, str]) -> Filling:
    """The filling for plugins named as `NAME`, `PACKAGE:NAME` or `SLOT=NAME`.

    `shape` is that of a sample of the data, and `inherited` has the plugins of a teacher's model by slot.
    Raises `PluginError` where two plugins claim a slot, one has no slot to fill, or a slot has no plugin.
    """
    draft = _Draft()
    _fill_named_slots(draft, [named for named in plugins if "=" in named])
    _fill_by_plugins(draft, [named for named in plugins if "=" not in named])
    suggested = draft.suggested()
    if Slot.noise in draft.owners:  # A parameterization may be for its own process only.
        inherited = {s: name for s, name in inherited.items() if s is not Slot.parameterization}
    defaults = {slot: row.default_for(shape) for slot, row in SLOTS.items()}
    fallback = {slot: n for slot, n in defaults.items() if n} | {**suggested, **inherited}
    _fit_loss(draft, fallback)
    _fill_the_rest(draft, fallback, inherited)
    _refuse_empty(draft)
    # Defaults have their say too: the sampler must fit the loss, whoever chose it.
    _fill_sampler(draft, (draft.suggested() | suggested).get(Slot.sampler))
    return Filling(draft.owners, tuple(draft.trackers), draft.plugins)


def _fill_named_slots(draft: _Draft, references: Sequence[str]) -> None:
    """The slots that were named together with their plugin: `SLOT=NAME`."""
    for slot_name, _, reference in (named.partition("=") for named in references):
        if slot_name not in list(Slot):
            raise PluginError(
                f"no slot '{slot_name}'{did_you_mean(slot_name, list(Slot))} "
                f"(slots: {', '.join(Slot)})"
            )
        slot = Slot(slot_name)
        name, plugin = draft.load(reference)
        _expect_slot(name, plugin, slot)
        if SLOTS[slot].stage == "outside":
            raise _outside(name, slot)
        if slot is Slot.tracker:
            draft.track(name)
        elif draft.owners.setdefault(slot, name) != name:
            raise PluginError(f"slot '{slot}' is given to both '{draft.owners[slot]}' and '{name}'")


def _fill_by_plugins(draft: _Draft, references: Sequence[str]) -> None:
    """The slots of plugins that were named as a whole, but those that `SLOT=NAME` gave to others."""
    taken = set(draft.owners)
    for reference in dict.fromkeys(references):
        name, plugin = draft.load(reference)
        claimed = [slot for slot in plugin.provides if slot in CLAIMED and slot not in taken]
        for slot in claimed:
            if draft.owners.setdefault(slot, name) != name:
                other = draft.owners[slot]
                raise PluginError(
                    f"plugins '{other}' and '{name}' both fill the slot '{slot}'; name only one, or "
                    f"say which: --plugin {slot}={other}"
                )
        if Slot.tracker in plugin.provides:
            draft.track(name)
        elif not claimed:
            raise _without_slot(name, plugin)


def _fit_loss(draft: _Draft, fallback: dict[Slot, str]) -> None:
    """No encoder, distance or coupling where the loss has no use for one."""
    _, loss = draft.load(draft.owners.get(Slot.loss, fallback[Slot.loss]))
    for slot in OPTIONAL_SLOTS:
        if slot in loss.uses:
            continue
        if slot in draft.owners:
            raise PluginError(
                f"'{loss.name}' {UNUSED[slot]}: leave the {slot} '{draft.owners[slot]}' out"
            )
        fallback.pop(slot, None)


def _fill_the_rest(
    draft: _Draft, fallback: Mapping[Slot, str], inherited: Mapping[Slot, str]
) -> None:
    """The slots that nobody named."""
    for slot in RECIPE_SLOTS:
        if slot in draft.owners or slot not in fallback:
            continue
        name, plugin = draft.load_unnamed(slot, fallback[slot])
        draft.owners[slot] = name
        # A plugin that fills several slots (trigflow: noise and parameterization) stays together.
        for other in plugin.provides:
            if other in RECIPE_SLOTS and other not in inherited:
                draft.owners.setdefault(other, name)


def _refuse_empty(draft: _Draft) -> None:
    """Every slot that a recipe needs has a plugin."""
    for slot in RECIPE_SLOTS:
        if slot not in draft.owners and not SLOTS[slot].optional:
            raise PluginError(
                f"no plugin fills the slot '{slot}'; name one with --plugin {slot}=NAME"
            )


def _fill_sampler(draft: _Draft, suggested: str | None) -> None:
    """The sampler that was named or suggested, or is usual for the kind of model that the loss makes."""
    loss = draft.load(draft.owners[Slot.loss])[1]
    usual = own_sampler(loss)
    if Slot.sampler not in draft.owners:
        known = set(draft.plugins)
        name, sampler = draft.load_unnamed(Slot.sampler, suggested or usual)
        if not draws_from(name, sampler, loss):
            if name not in known:
                del draft.plugins[name]
            name, _ = draft.load(usual)
        draft.owners[Slot.sampler] = name
    name, sampler = draft.load(draft.owners[Slot.sampler])
    if not draws_from(name, sampler, loss):
        raise PluginError(
            f"the sampler '{name}' draws from {' and '.join(sampler.samples_from)} models, and "
            f"'{draft.owners[Slot.loss]}' makes a {loss.makes} model; its own sampler is '{usual}'"
        )


def _expect_slot(name: str, plugin: Plugin, slot: Slot) -> None:
    """Raises `PluginError` unless a plugin fills a slot."""
    if slot not in plugin.provides:
        offers = ", ".join(plugin.provides)
        raise PluginError(f"plugin '{name}' does not fill the slot '{slot}' (it fills: {offers})")


def _without_slot(name: str, plugin: Plugin) -> PluginError:
    """The error for a plugin that was named, and fills no slot."""
    outside = [slot for slot, row in SLOTS.items() if row.stage == "outside"]
    if not set(plugin.provides).intersection(CLAIMED):
        for slot in outside:
            if slot in plugin.provides:
                return _outside(name, slot)
    return PluginError(f"plugin '{name}' has nothing left to fill: its slots are given to others")


def _outside(name: str, slot: Slot) -> PluginError:
    """The error for a plugin whose slot is no part of a recipe's plugins."""
    kind = f"{'an' if slot[0] in 'aeiou' else 'a'} {slot}"
    asked = (SLOTS[slot].asked or "").format(name)
    return PluginError(f"plugin '{name}' is {kind}; ask for it with {asked}")
