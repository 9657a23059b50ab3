"""Which options every part of a recipe has: those that plugins recommend, and over them the user's."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scmkit.composing.blame import blaming
from scmkit.composing.cast import Cast, cast_of, own_settings
from scmkit.composing.dotted import flatten, only, part, section
from scmkit.composing.entries import Entry, find
from scmkit.composing.filling import Filling
from scmkit.composing.loading import load
from scmkit.composing.recipe import PluginRecord, Recipe
from scmkit.errors import OptionError, PluginError, did_you_mean
from scmkit.plugin import MODEL_SLOTS, Makes, Player, Plugin, Slot
from scmkit.settings import PLAYER_OPTIONS, TrainingSettings, configure


def makes(filling: Filling) -> Makes:
    """The kind of model that the loss leaves behind."""
    made = filling.owner(Slot.loss).makes
    assert made is not None, "a plugin that fills the loss slot says what it makes"
    return made


@blaming()
def settings_of(plugin: Plugin, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a plugin with the given options recommends; raises `PluginError` for what is no setting."""
    found = plugin.settings
    if callable(found):
        found = found(configure(plugin.config, options, plugin.name))
    if not isinstance(found, Mapping):
        raise PluginError(
            f"plugin '{plugin.name}' recommends a {type(found).__name__} as its settings, which must be a "
            "mapping of PLUGIN.OPTION to value"
        )
    for key in found:
        if not (isinstance(key, str) and all(key.partition("."))):
            raise PluginError(
                f"plugin '{plugin.name}' recommends the setting {key!r}, which must be named PLUGIN.OPTION"
            )
    return found


def recommended(
    filling: Filling, dataset: Mapping[str, PluginRecord], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that the owners of slots recommend for parts of the recipe, and over them the data set's.

    Of several owners the first named wins; settings for the kind of model win over those for any, and those
    for the loss's plugin over these. Where a
    plugin's recommendations depend on its options, these are the `chosen` ones, else what other plugins
    recommend whatever their own options are.
    """
    names = reversed(dict.fromkeys(filling.owners.values()))
    plugins = [filling.plugins[name] for name in names]
    of_data = [find(f"{record.package}:{name}") for name, record in dataset.items()]
    plugins += [(entry, load(entry)) for entry in of_data]
    trained = (makes(filling), filling.owners[Slot.loss])
    for_kind = [
        (entry, _merged([plugin.settings_for.get(key, {}) for key in trained]))
        for entry, plugin in plugins
    ]
    fixed = [plugin.settings for _, plugin in plugins if not callable(plugin.settings)]
    known = flatten({name: record.config for name, record in dataset.items()})
    options = {**_merged([*fixed, *(layer for _, layer in for_kind)]), **chosen, **known}
    layers = [
        (entry, settings_of(plugin, section(options, plugin.name))) for entry, plugin in plugins
    ]
    kinds = {name: plugin.config for name, (_, plugin) in filling.plugins.items()}
    kinds["train"] = TrainingSettings
    for entry, layer in (*layers, *for_kind):
        _expect_options(entry, layer, kinds)
    return only(_merged([layer for _, layer in (*layers, *for_kind)]), kinds)


def _expect_options(entry: Entry, layer: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raises `PluginError` where a plugin recommends what is no option, or no value of it."""
    for name in {part(key) for key in layer} & set(kinds):
        try:
            configure(kinds[name], section(layer, name), name)
        except OptionError as error:
            raise PluginError(f"{entry} recommends what cannot be: {error}") from None


def _merged(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several tables of settings as one, in which the later win."""
    return {key: value for layer in layers for key, value in layer.items()}


def options_of_model(recipe: Recipe) -> dict[str, Any]:
    """The options of the plugins that make up the model of a recipe."""
    names = {recipe.slots[slot] for slot in MODEL_SLOTS}
    return {
        f"{name}.{option}": value
        for name in names
        for option, value in recipe.plugins[name].config.items()
    }


def cast(
    filling: Filling,
    settings: Mapping[str, Any],
    train: TrainingSettings,
    plugins: Collection[str],
) -> Cast:
    """Who takes part in the training; `plugins` are the names of those in the recipe."""
    name = filling.owners[Slot.loss]
    entry, loss = filling.plugins[name]
    config = configure(loss.config, section(settings, name), name)
    return cast_of(entry, loss, config, train, plugins)


def player_settings(
    players: Mapping[str, Player], chosen: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The training settings that players have of their own, by name, and over them those `chosen` by the
    user, or by a run whose recipe is composed again."""
    own = {}
    for name, player in players.items():
        asked = {**own_settings(player), **section(chosen, name)}
        foreign = [option for option in asked if option not in PLAYER_OPTIONS]
        if foreign:
            raise OptionError(
                f"setting '{name}.{foreign[0]}': a player has no such setting of its own"
                f"{did_you_mean(foreign[0], PLAYER_OPTIONS)} (it has: {', '.join(PLAYER_OPTIONS)})"
            )
        checked = configure(TrainingSettings, asked, name)
        own[name] = {option: getattr(checked, option) for option in asked}
    return own


def refuse_undotted(given: Mapping[str, Any]) -> None:
    """Raises `OptionError` for a setting that names no option."""
    for key in given:
        if not key.partition(".")[2]:
            raise OptionError(f"setting '{key}': write it as PLUGIN.OPTION=VALUE")


def refuse_strangers(given: Mapping[str, Any], parts: Collection[str]) -> None:
    """Raises `OptionError` for a setting of what is not among the parts of the recipe."""
    for key in given:
        name = part(key)
        if name not in parts:
            raise OptionError(
                f"setting '{key}': '{name}' is not part of this recipe"
                f"{did_you_mean(name, parts)} (parts: {', '.join(sorted(parts))})"
            )


def records(filling: Filling, settings: Mapping[str, Any]) -> dict[str, PluginRecord]:
    """Every plugin with its package, version and all of its options, by name."""
    found = {}
    for name, (entry, plugin) in sorted(filling.plugins.items()):
        config = configure(plugin.config, section(settings, name), name)
        found[name] = PluginRecord(entry.package, entry.version, dataclasses.asdict(config))
    return found
