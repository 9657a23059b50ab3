"""Checks of a plugin's declaration: name, summary, options."""

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import re
from typing import get_args

import equinox as eqx

from scmkit.composing.cast import SECTIONS, cast_of, expect_gains
from scmkit.composing.dotted import section
from scmkit.composing.entries import entries
from scmkit.composing.options import settings_of
from scmkit.errors import OptionError, did_you_mean
from scmkit.plugin import API_VERSION, Makes, Plugin, Slot
from scmkit.settings import TrainingSettings, configure, option_help
from scmkit.testing.check import require

STEPS = (1, 2, 3, 4, 10, 100)
"""Lengths of training, beside the usual one, for which a cast must be sound or the steps too few."""


def name_can_be_typed(plugin: Plugin) -> None:
    require(
        re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", plugin.name),
        f"name '{plugin.name}': use lower-case words joined by hyphens, as --plugin and --set need it",
    )
    require(
        plugin.name not in SECTIONS,
        f"name '{plugin.name}' is taken by the settings of that name; choose another",
    )


def summary_is_one_line(plugin: Plugin) -> None:
    summary = plugin.summary
    require(
        summary.strip() and summary == summary.strip(), f"summary {summary!r} is empty or padded"
    )
    require(len(summary.splitlines()) == 1, f"summary {summary!r} must be one line")
    require(len(summary) <= 100, f"summary has {len(summary)} characters, more than a line of 100")


def api_is_the_present_one(plugin: Plugin) -> None:
    require(plugin.api == API_VERSION, f"api is {plugin.api}, this scmkit speaks {API_VERSION}")


def slots_exist_and_factories_are_callable(plugin: Plugin) -> None:
    for slot, factory in plugin.provides.items():
        require(slot in list(Slot), f"there is no slot '{slot}' (slots: {', '.join(Slot)})")
        require(callable(factory), f"the factory of '{slot}' is a {type(factory).__name__}")
    for slot in plugin.suggests:
        require(slot in list(Slot), f"suggests a plugin for '{slot}', which is no slot")


def settings_are_named_as_for_set(plugin: Plugin) -> None:
    for name in settings_of(plugin, {}):
        require(
            re.fullmatch(r"[^.\s]+\.\S+", name),
            f"setting '{name}' must be named PLUGIN.OPTION, as for --set",
        )


def required_modules_are_installed(plugin: Plugin) -> None:
    for module, command in plugin.requires.items():
        require(
            importlib.util.find_spec(module.partition(".")[0]) is not None,
            f"needs the module '{module}'; install it with: {command}",
        )


def options_are_a_frozen_dataclass_with_defaults(plugin: Plugin) -> None:
    config = plugin.config
    params = getattr(config, "__dataclass_params__", None)
    # Equinox freezes its modules itself.
    frozen = issubclass(config, eqx.Module) or (params is not None and params.frozen)
    require(frozen, f"{config.__name__} must be a frozen dataclass")
    for field in dataclasses.fields(config):
        has_default = field.default is not dataclasses.MISSING
        require(
            has_default or field.default_factory is not dataclasses.MISSING,
            f"option '{plugin.name}.{field.name}' has no default",
        )


def options_are_documented(plugin: Plugin) -> None:
    # A dataclass writes its signature where there is no docstring.
    doc = inspect.cleandoc(plugin.config.__doc__ or "")
    require(
        doc and not doc.startswith(f"{plugin.config.__name__}("),
        f"{plugin.config.__name__} has no docstring",
    )
    for option in option_help(plugin.config):
        require(
            option.summary,
            f"option '{plugin.name}.{option.name}' has no docstring below its field",
        )


def defaults_satisfy_their_own_constraints(plugin: Plugin) -> None:
    default = plugin.config()
    given = dataclasses.asdict(default)
    require(
        configure(plugin.config, given, plugin.name) == default,
        f"the defaults of '{plugin.name}' change when they are checked",
    )


def options_survive_json(plugin: Plugin) -> None:
    default = plugin.config()
    stored = json.loads(json.dumps(dataclasses.asdict(default), allow_nan=False))
    require(
        configure(plugin.config, stored, plugin.name) == default,
        f"the defaults of '{plugin.name}' change on their way through recipe.json",
    )


def options_can_be_typed(plugin: Plugin) -> None:
    default = plugin.config()
    for field in dataclasses.fields(plugin.config):
        value = getattr(default, field.name)
        text = value if isinstance(value, str) else json.dumps(value)
        typed = getattr(configure(plugin.config, {field.name: text}, plugin.name), field.name)
        require(
            typed == value,
            f"--set {plugin.name}.{field.name}={text} gives {typed!r}, not the default {value!r}",
        )


def recommended_training_is_possible(plugin: Plugin) -> None:
    for settings in (settings_of(plugin, {}), *plugin.settings_for.values()):
        configure(TrainingSettings, section(settings, "train"), "train")


def settings_are_for_what_exists(plugin: Plugin) -> None:
    known = [*get_args(Makes), *(entry.name for entry in entries())]
    for key in plugin.settings_for:
        require(
            key in known,
            f"settings_for names '{key}', which is no kind of model and no plugin that is installed"
            f"{did_you_mean(key, known)}",
        )


def players_followers_and_stages_are_sound(plugin: Plugin) -> None:
    owner, usual = f"plugin '{plugin.name}'", TrainingSettings()
    expect_gains(owner, cast_of(owner, plugin, plugin.config(), usual), usual.steps)
    for steps in STEPS:
        with contextlib.suppress(OptionError):  # Which asks the user for more steps.
            cast = cast_of(owner, plugin, plugin.config(), TrainingSettings(steps=steps))
            expect_gains(owner, cast, steps)


def teachers_are_kinds_of_models(plugin: Plugin) -> None:
    unknown = sorted(set(plugin.taught_by(plugin.config())) - set(get_args(Makes)))
    require(
        not unknown, f"taught_by names {unknown}; a model is one of {', '.join(get_args(Makes))}"
    )


CHECKS = (
    name_can_be_typed,
    summary_is_one_line,
    api_is_the_present_one,
    slots_exist_and_factories_are_callable,
    settings_are_named_as_for_set,
    required_modules_are_installed,
    options_are_a_frozen_dataclass_with_defaults,
    options_are_documented,
    defaults_satisfy_their_own_constraints,
    options_survive_json,
    options_can_be_typed,
    recommended_training_is_possible,
    settings_are_for_what_exists,
    players_followers_and_stages_are_sound,
    teachers_are_kinds_of_models,
)
