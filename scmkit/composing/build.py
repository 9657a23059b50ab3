"""From a recipe to modules."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.random as jr

from scmkit.composing.blame import is_signal
from scmkit.composing.entries import Entry, find, first_line
from scmkit.composing.loading import load
from scmkit.composing.recipe import Recipe
from scmkit.errors import PluginError, ScmkitError
from scmkit.interfaces import (
    AbstractAttention,
    AbstractDataset,
    AbstractFeatures,
    AbstractImporter,
    AbstractLoss,
    AbstractMetric,
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractParameterization,
    AbstractProposal,
    AbstractSampler,
    AbstractTangentEstimator,
    AbstractTimeEmbedding,
    AbstractTracker,
    NormFactory,
)
from scmkit.models.model import Model
from scmkit.plugin import MODEL_SLOTS, TRAINING_SLOTS, Context, Slot
from scmkit.settings import configure
from scmkit.types import Key

KINDS: dict[Slot, type] = {
    Slot.noise: AbstractNoiseProcess,
    Slot.parameterization: AbstractParameterization,
    Slot.proposal: AbstractProposal,
    Slot.embedding: AbstractTimeEmbedding,
    Slot.norm: NormFactory,
    Slot.attention: AbstractAttention,
    Slot.network: AbstractNetwork,
    Slot.tangent: AbstractTangentEstimator,
    Slot.loss: AbstractLoss,
}
"""What each slot of a model or its training must hold."""


def named_key(key: Key, name: str) -> Key:
    """A key of its own for each name, so that adding a name reshuffles no other."""
    return jr.fold_in(key, zlib.crc32(name.encode()))


class Assembly(eqx.Module):
    """A recipe's modules: the model, and what trains it."""

    model: Model
    proposal: AbstractProposal
    tangent: AbstractTangentEstimator
    loss: AbstractLoss


def _fill(recipe: Recipe, slot: Slot, context: Context, key: Key) -> Any:
    entry, plugin, config = recipe.plugin(recipe.slots[slot])
    key = named_key(key, slot)
    return _checked(
        entry, slot, KINDS[slot], lambda: plugin.provides[slot](config, context, key=key)
    )


def build_model(recipe: Recipe, *, key: Key) -> Model:
    """The model of a recipe with fresh weights; needs neither teacher nor data.

    Raises `PluginError` naming plugin, package and version when a factory fails.
    """
    return _model(recipe, key)[0]


def _model(recipe: Recipe, key: Key) -> tuple[Model, dict[Slot, Any]]:
    built: dict[Slot, Any] = {}
    conditions = recipe.conditions
    for slot in MODEL_SLOTS:
        context = Context(recipe.data, dict(built), train=recipe.train, conditions=conditions)
        built[slot] = _fill(recipe, slot, context, key)
    model = Model(
        parameterization=built[Slot.parameterization],
        network=built[Slot.network],
        precision=recipe.train.precision,
    )
    return model, built


def build(recipe: Recipe, *, key: Key, teacher: Model | None = None) -> Assembly:
    """The model of a recipe and everything that trains it.

    `teacher` is the pretrained model that `recipe.teacher_role` speaks of; the model's own weights
    are fresh all the same. Raises `PluginError` when a factory fails or a teacher is missing.
    """
    if recipe.teacher_role == "required" and teacher is None:
        raise PluginError(
            f"'{recipe.slots[Slot.tangent]}' takes its tangent from a teacher: pass one to build()"
        )
    model, built = _model(recipe, key)
    conditions = recipe.conditions
    for slot in TRAINING_SLOTS:
        context = Context(recipe.data, dict(built), teacher, recipe.train, conditions=conditions)
        built[slot] = _fill(recipe, slot, context, key)
    return Assembly(model, built[Slot.proposal], built[Slot.tangent], built[Slot.loss])


FREE_KINDS: dict[Slot, type] = {
    Slot.sampler: AbstractSampler,
    Slot.dataset: AbstractDataset,
    Slot.metric: AbstractMetric,
    Slot.tracker: AbstractTracker,
    Slot.importer: AbstractImporter,
    Slot.features: AbstractFeatures,
}
"""What the slots hold that are part of no model."""


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
    return _checked(entry, slot, FREE_KINDS[slot], lambda: plugin.provides[slot](config, *args))


def _checked(entry: Entry, slot: Slot, kind: type, make: Callable[[], Any]) -> Any:
    """What `make` returns, with its failures blamed on the plugin by name, package and version."""
    try:
        built = make()
    except ScmkitError:
        raise
    except BaseException as error:
        if is_signal(error):
            raise
        raise PluginError(
            f"{entry} failed to build its {slot}: {first_line(error) or type(error).__name__}"
        ) from error
    if not isinstance(built, kind):
        raise PluginError(
            f"{entry} filled the slot '{slot}' with a {type(built).__name__}, "
            f"which is no {kind.__name__}"
        )
    return built
