"""A recipe as a picture of its slots."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.plugin import Slot
from scmkit.reporting.markup import Html, element, join
from scmkit.settings import TrainingSettings


def recipe_picture(recipe: Recipe) -> Html:
    """Data, noise, model, tangent and loss from left to right; options that are not the default's below."""
    shown: set[str] = set()

    def slot(name: Slot, *inside: Html) -> Html:
        plugin = recipe.slots[name]
        options = {} if plugin in shown else changed_options(recipe, plugin)
        shown.add(plugin)
        return box(name, plugin, origin(recipe, plugin), options, *inside)

    data = recipe.data
    if Slot.dataset in recipe.slots:
        source = slot(Slot.dataset)
    else:
        source = box("data", Path(data.source).name, "×".join(map(str, data.shape)), {})
    network = slot(Slot.network, slot(Slot.embedding), slot(Slot.norm), slot(Slot.attention))
    columns = [
        join(source),
        join(slot(Slot.noise), slot(Slot.proposal)),
        join(slot(Slot.parameterization, network)),
        join(slot(Slot.tangent), _teacher(recipe)),
        join(slot(Slot.loss), box("training", "", "", changed_settings(recipe))),
    ]
    record = recipe.plugins[recipe.sampler]
    sampler = box(
        "sampler",
        recipe.sampler,
        f"{record.package} {record.version}",
        changed_options(recipe, recipe.sampler),
    )
    stages = [element("div", column, class_="stage") for column in (*columns, sampler)]
    return element("div", *stages, class_="recipe")


def box(slot: str, name: str, origin: str, options: Mapping[str, Any], *inside: Html) -> Html:
    """A slot with what fills it, and what lies inside."""
    items = [element("li", f"{key} ", element("b", _shown(v))) for key, v in options.items()]
    return element(
        "div",
        element("span", slot, class_="slot"),
        element("strong", name) if name else None,
        element("small", origin) if origin else None,
        element("ul", *items) if items else None,
        element("div", *inside, class_="inside") if inside else None,
        class_="box",
    )


def origin(recipe: Recipe, plugin: str) -> str:
    """The package of a recorded plugin, with its version."""
    record = recipe.plugins[plugin]
    return f"{record.package} {record.version}"


def changed_options(recipe: Recipe, plugin: str) -> dict[str, Any]:
    """The options of a recorded plugin that differ from its defaults."""
    _, declared, config = recipe.plugin(plugin)
    return _changed(config, declared.config())


def changed_settings(recipe: Recipe) -> dict[str, Any]:
    """Steps, batch size and learning rate, and what else of training differs from the defaults."""
    train = recipe.train
    first = {"steps": train.steps, "batch_size": train.batch_size, "lr": train.lr}
    return {**first, **_changed(train, TrainingSettings())}


def _changed(config: Any, defaults: Any) -> dict[str, Any]:
    values = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    return {name: value for name, value in values if value != getattr(defaults, name)}


def _teacher(recipe: Recipe) -> Html | None:
    teacher = recipe.teacher
    if not isinstance(teacher, TeacherRecord):
        return None
    return box("teacher", Path(teacher.path).name, f"digest {(teacher.digest or '?')[:8]}", {})


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(_shown, value)) if isinstance(value, tuple) else str(value)
