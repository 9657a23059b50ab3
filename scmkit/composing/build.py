"""From a recipe to modules."""

import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax.random as jr

from scmkit.composing.conformity import built_by
from scmkit.composing.entries import find
from scmkit.composing.loading import load
from scmkit.composing.recipe import Recipe
from scmkit.composing.slots import SLOTS, draws_from
from scmkit.errors import OptionError, PluginError, UsageError, brief
from scmkit.interfaces import (
    AbstractCoupling,
    AbstractGroupLoss,
    AbstractMemory,
    AbstractModel,
    AbstractProposal,
    AbstractSampler,
    AbstractTangentEstimator,
    AnyLoss,
)
from scmkit.models.inputs import Inputs
from scmkit.models.model import Model
from scmkit.plugin import MODEL_SLOTS, OPTIONAL_SLOTS, TRAINING_SLOTS, Context, Slot
from scmkit.settings import configure
from scmkit.types import Key


def named_key(key: Key, name: str) -> Key:
    """A key of its own for each name, so that adding a name reshuffles no other."""
    return jr.fold_in(key, zlib.crc32(name.encode()))


class Assembly(eqx.Module):
    """A recipe's modules: the model, and what trains it."""

    model: Model
    proposal: AbstractProposal
    tangent: AbstractTangentEstimator
    loss: AnyLoss
    coupling: AbstractCoupling | None = None
    teacher: AbstractModel | None = None
    players: dict[str, tuple[Any, AnyLoss]] = eqx.field(default_factory=dict)
    """Module and loss of every player beside the generator, by name."""
    memories: dict[str, AbstractMemory] = eqx.field(default_factory=dict)
    """What is remembered of the data, before there was any, by name."""


def _fill(recipe: Recipe, slot: Slot, context: Context, key: Key) -> Any:
    entry, plugin, config = recipe.plugin(recipe.slots[slot])
    key = named_key(key, slot)
    return built_by(
        entry, slot, SLOTS[slot].holds, lambda: plugin.provides[slot](config, context, key=key)
    )


def build_model(recipe: Recipe, *, key: Key) -> Model:
    """The model of a recipe with fresh weights; needs neither teacher nor data.

    Raises `PluginError` naming plugin, package and version when a factory fails.
    """
    return _model(recipe, key)[0]


def _context(recipe: Recipe, built: Mapping[Slot, Any], teacher: AbstractModel | None) -> Context:
    return Context(
        data=recipe.data,
        built=dict(built),
        teacher=teacher,
        train=recipe.train,
        noise_labels=recipe.noise_labels,
        conditions=recipe.conditions,
    )


def _model(recipe: Recipe, key: Key) -> tuple[Model, dict[Slot, Any]]:
    built: dict[Slot, Any] = {}
    for slot in MODEL_SLOTS:
        built[slot] = _fill(recipe, slot, _context(recipe, built, None), key)
    model = Model(
        parameterization=built[Slot.parameterization],
        network=built[Slot.network],
        precision=recipe.train.precision,
        noise_labels=recipe.noise_labels,
        inputs=Inputs(tuple(recipe.data.shape), recipe.data.num_classes, recipe.drops_labels),
    )
    return model, built


def build(recipe: Recipe, *, key: Key, teacher: AbstractModel | None = None) -> Assembly:
    """The model of a recipe and everything that trains it.

    `teacher` is the pretrained model that `recipe.starts_from` speaks of; the model's own weights are fresh
    all the same, and so are those of players. Raises `PluginError` when a factory fails, a teacher is missing
    or a loss asks for tangents that there are not, `OptionError` where a batch does not divide into the
    groups that a loss takes.
    """
    if recipe.starts_from == "teacher" and teacher is None:
        raise PluginError(f"'{recipe.slots[Slot.loss]}' needs a teacher: pass one to build()")
    model, built = _model(recipe, key)
    for slot in TRAINING_SLOTS:
        if slot in OPTIONAL_SLOTS and slot not in recipe.slots:
            continue
        built[slot] = _fill(recipe, slot, _context(recipe, built, teacher), key)
    _expect_field(recipe, built[Slot.tangent])
    expect_groups(recipe, built[Slot.loss])
    context = _context(recipe, built, teacher)
    return Assembly(
        model=model,
        proposal=built[Slot.proposal],
        tangent=built[Slot.tangent],
        loss=built[Slot.loss],
        coupling=built.get(Slot.coupling),
        teacher=teacher,
        players=_players(recipe, context, key),
        memories=_memories(recipe, context, key),
    )


def _expect_field(recipe: Recipe, tangent: AbstractTangentEstimator) -> None:
    """Raises `PluginError` where a loss asks for the tangent at points of which the tangent knows nothing."""
    name = recipe.slots[Slot.loss]
    _, plugin, config = recipe.plugin(name)
    if tangent.of_data and plugin.off_path(config):
        raise PluginError(
            f"'{name}' asks for the tangent at what its model makes, and that of "
            f"'{recipe.slots[Slot.tangent]}' is known on the paths of data alone; take a teacher's, such as "
            f"--plugin tangent={name}"
        )


def _players(recipe: Recipe, context: Context, key: Key) -> dict[str, tuple[Any, Any]]:
    """Module and loss of the players beside the generator."""
    entry, _, config = recipe.plugin(recipe.slots[Slot.loss])
    built = {}
    for name, player in recipe.players.items():
        own = named_key(key, f"player/{name}")
        module = (
            _model(recipe, own)[0]
            if player.model is None
            else built_by(
                entry,
                f"player '{name}'",
                eqx.Module,
                partial(player.model, config, context, key=own),
            )
        )
        make = partial(player.loss, config, context, key=own)
        loss = built_by(entry, f"loss of player '{name}'", SLOTS[Slot.loss].holds, make)
        expect_groups(recipe, loss)
        built[name] = (module, loss)
    return built


def _memories(recipe: Recipe, context: Context, key: Key) -> dict[str, AbstractMemory]:
    """What is remembered of the data, before there was any."""
    entry, _, config = recipe.plugin(recipe.slots[Slot.loss])
    return {
        name: built_by(
            entry,
            f"memory '{name}'",
            AbstractMemory,
            partial(make, config, context, key=named_key(key, f"memory/{name}")),
        )
        for name, make in recipe.memories.items()
    }


def expect_groups(recipe: Recipe, loss: AnyLoss) -> None:
    """Raises `OptionError` where a (micro-)batch is no whole number of the groups that a loss takes."""
    if not isinstance(loss, AbstractGroupLoss):
        return
    name, train, size = recipe.slots[Slot.loss], recipe.train, loss.group
    if type(size) is not int or size < 1:
        raise PluginError(
            f"{recipe.plugin(name)[0]}: its loss takes groups of {brief(size)} samples; `group` must be a "
            "whole number of at least 1"
        )
    if train.batch_size % (size * train.accumulate):
        step = size * train.accumulate
        below = train.batch_size // step * step
        nearest = [str(n) for n in (below, below + step) if n]
        parts = f" and train.accumulate={train.accumulate}" if train.accumulate > 1 else ""
        raise OptionError(
            f"'{name}' takes samples in groups of {size}, which do not divide "
            f"train.batch_size={train.batch_size}{parts}; the nearest sizes that they divide: "
            f"{' and '.join(nearest)}"
        )


def build_free(slot: Slot, reference: str, settings: Mapping[str, Any], *args: Any) -> Any:
    """What plugin `reference` puts in a slot that is part of no model: a sampler, metric, ...

    `settings` are its options, `args` what the slot's factories get besides. Raises `PluginError` if the
    plugin does not fill the slot or fails, `OptionError` for a bad option.
    """
    entry = find(reference)
    plugin = load(entry)
    if slot not in plugin.provides:
        raise PluginError(
            f"plugin '{entry.name}' is no {slot} (it fills: {', '.join(plugin.provides)})"
        )
    config = configure(plugin.config, settings, entry.name)
    return built_by(entry, slot, SLOTS[slot].holds, lambda: plugin.provides[slot](config, *args))


def build_sampler(
    recipe: Recipe, name: str | None = None, settings: Mapping[str, Any] | None = None
) -> AbstractSampler:
    """The sampler of plugin `name`, by default the recipe's, with `settings` over its recorded options.

    Raises `UsageError` for one that does not draw from such models.
    """
    reference, recorded = recipe.recorded(name or recipe.sampler)
    if name not in (None, recipe.sampler):
        entry, (_, loss, _) = find(reference), recipe.plugin(recipe.slots[Slot.loss])
        plugin = load(entry)
        if Slot.sampler in plugin.provides and not draws_from(entry.name, plugin, loss):
            raise UsageError(
                f"the sampler '{entry.name}' draws from {' and '.join(plugin.samples_from)} models, and "
                f"'{loss.name}' has made a {loss.makes} model; its own sampler is '{recipe.sampler}'"
            )
    return build_free(Slot.sampler, reference, {**recorded, **(settings or {})})
