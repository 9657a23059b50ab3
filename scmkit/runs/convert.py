"""Weights from elsewhere as runs, and runs as files for elsewhere."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from scmkit.composing.blame import blaming
from scmkit.composing.build import build_free, build_model
from scmkit.composing.compose import compose
from scmkit.composing.recipe import Recipe
from scmkit.errors import DataError, RunError, UsageError
from scmkit.interfaces import AbstractImporter, Imported
from scmkit.models.model import Model
from scmkit.plugin import Slot
from scmkit.runs import checkpoint
from scmkit.runs.arrays import is_saved, named_leaves
from scmkit.runs.run import Run
from scmkit.settings import DataSettings, configure
from scmkit.storage.containment import parse_json
from scmkit.storage.files import plain_path, sync_directory
from scmkit.storage.finite import not_finite
from scmkit.terminal import say
from scmkit.weights import WeightFile, listed, read_weights, write_safetensors

RECIPE = "scmkit.recipe"
"""The key of the recipe in an exported file's metadata."""


@blaming()
def convert(
    importer: str,
    file: str | Path,
    dest: str | Path,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """A run with the weights of a foreign network, for `--teacher` and `sample`.

    **Arguments:**

    - `importer`: a plugin that fills the importer slot, such as `"edm2"`.
    - `file`: `.safetensors`, an `.npz` of a state dict, a PyTorch checkpoint, or an official `.pkl`;
        nothing in it is executed.
    - `dest`: the new run's directory.
    - `settings`: `"PLUGIN.OPTION"` -> value; they win over what the file's shapes say.

    What of the file is not used, what it does not say, and where the settings contradict it, is said on
    stderr. Raises `DataError` for a file that cannot be read or holds values that are not finite,
    `UsageError` where it holds another network or the settings ask for another size than it has, or the
    directory exists.
    """
    _refuse_taken(Path(dest))
    file, settings = Path(file), dict(settings or {})
    own = {k.partition(".")[2]: v for k, v in settings.items() if k.startswith(f"{importer}.")}
    reader: AbstractImporter = build_free(Slot.importer, importer, own)
    weights = _read(file)
    try:
        found = reader.read(weights.arrays, weights.metadata)
    except ValueError as error:
        raise UsageError(f"'{file}' is not for importer '{importer}': {error}") from None
    once = {"train.steps": 1, "train.keep": 0}
    told = {k.partition(".")[2]: v for k, v in settings.items() if k.startswith("data.")}
    # Checked here, since the recipe is composed for data of which all is known.
    checked = asdict(configure(DataSettings, told, "data"))
    data = replace(found.data, **{name: checked[name] for name in told})
    recipe = compose(found.plugins, {**found.settings, **once, **settings}, data=data)
    model = _filled(recipe, found.leaves, str(file), found.settings)
    _say_what_is_not_said(found, recipe, settings)
    return _write_run(Path(dest), recipe, model, {"converted": {"from": file.name, "by": importer}})


def _say_what_is_not_said(found: Imported, recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """One line each on what is not used, what is assumed, and settings that contradict the file."""
    values = {f"{name}.{k}": v for name, r in recipe.plugins.items() for k, v in r.config.items()}
    values["data.sigma_data"] = recipe.data.sigma_data
    if found.dropped:
        say(f"not used: {len(found.dropped)} arrays of the file ({listed(found.dropped)})")
    assumed = {name: values[name] for name in found.assumed if name not in settings}
    if assumed:
        given = ", ".join(f"{name}={_text(value)}" for name, value in assumed.items())
        say(f"the file does not say, and is taken to be: {given}; --set changes it")
    said = {**found.settings, "data.sigma_data": found.data.sigma_data}
    for name in settings:
        if name in said and name not in found.assumed and said[name] != values[name]:
            say(
                f"--set {name}={_text(values[name])} wins over {_text(said[name])}, which the file says"
            )


def export(run: Run, dest: str | Path) -> None:
    """The averaged weights of a run as a `.safetensors` file, with the recipe in its metadata.

    Raises `UsageError` for another suffix or a file that exists.
    """
    dest = Path(dest)
    if dest.suffix != ".safetensors":
        raise UsageError(
            f"'{dest}': weights are exported as .safetensors, give a name that ends so"
        )
    if dest.exists():
        raise UsageError(f"'{dest}' exists; choose another name, or remove it first")
    # Which loading has found to be finite.
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(run.model) if is_saved(leaf)}
    metadata = {RECIPE: json.dumps(run.recipe.to_json()), "format": "scmkit"}
    write_safetensors(dest, arrays, metadata)


def restore_exported(file: str | Path, dest: str | Path) -> Run:
    """The run of a file that `export` wrote: the same weights bit for bit, kind of model, and sampler.

    Raises `UsageError` if the file has no recipe in it, or arrays are missing or left over.
    """
    _refuse_taken(Path(dest))
    file = Path(file)
    weights = _read(file)
    text = weights.metadata.get(RECIPE)
    if text is None:
        raise UsageError(
            f"'{file}' has no scmkit recipe in its metadata; for a foreign network name its importer, "
            "such as `scmkit convert edm2`"
        )
    try:
        recipe = Recipe.from_json(parse_json(text))
    except ValueError:
        raise UsageError(f"'{file}': the recipe in its metadata is not JSON") from None
    leaves = {name: (name, array) for name, array in weights.arrays.items()}
    model = _filled(recipe, leaves, str(file), {})
    # What is left of the training is its result: no teacher, and no steps to go. The teacher's role stays, by
    # which a consistency model is told from a diffusion model.
    recipe = recipe.replace(teacher=None, train=replace(recipe.train, steps=1))
    return _write_run(Path(dest), recipe, model, {"converted": {"from": file.name, "by": "scmkit"}})


def _filled(
    recipe: Recipe,
    leaves: Mapping[str, tuple[str, np.ndarray]],
    file: str,
    inferred: Mapping[str, Any],
) -> Model:
    """The recipe's model with the given leaves as numpy arrays; nothing else is allocated."""
    skeleton = eqx.filter_eval_shape(build_model, recipe, key=jr.key(0))
    wanted = dict(named_leaves(skeleton))
    fits = " ".join(f"--set {k}={_text(v)}" for k, v in inferred.items())
    remedy = f"; the file fits {fits}" if fits else ""
    saved = [name for name, leaf in wanted.items() if is_saved(leaf)]
    if missing := [name for name in saved if name not in leaves]:
        raise UsageError(
            f"'{file}' lacks {len(missing)} of the {len(saved)} arrays of this model "
            f"({listed(missing)}){remedy}"
        )
    if foreign := [source for name, (source, _) in leaves.items() if name not in saved]:
        raise UsageError(
            f"'{file}': parameters that have no place in this model: {listed(foreign)}{remedy}"
        )
    for name, (source, array) in leaves.items():
        shape = wanted[name].shape
        if array.shape != shape:
            raise UsageError(
                f"'{file}': parameter '{source}' gives '{name}' the shape {_size(array.shape)}, this "
                f"model's is {_size(shape)}{remedy}"
            )
    # What is too large for the type becomes infinity, which is named.
    with np.errstate(over="ignore"):
        arrays = {name: leaves[name][1].astype(wanted[name].dtype) for name in saved}
    if problem := not_finite((leaves[name][0], array) for name, array in arrays.items()):
        raise DataError(f"'{file}' has {problem}, and can only make more of it; fetch it again")
    values = [arrays.get(name, leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(skeleton), values)


def _read(file: Path) -> WeightFile:
    weights = read_weights(file)
    if weights.prefix:
        say(f"'{file}': names are read without '{weights.prefix}', which all of them begin with")
    return weights


def _refuse_taken(dest: Path) -> None:
    """Raises `UsageError` if something is where a run is to be made."""
    if dest.exists():
        raise UsageError(f"'{dest}' exists; choose another name, or remove it first")


def _write_run(dest: Path, recipe: Recipe, model: Model, metadata: Mapping[str, Any]) -> Run:
    """A finished run that holds averaged weights alone; whole or not at all."""
    dest = plain_path(dest)
    _refuse_taken(dest)
    temporary = dest.with_name(f".{dest.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        run = Run.create(temporary, recipe)
        tree = {"players": {"generator": {"ema": model}}}
        checkpoint.save(run.checkpoints, recipe.train.steps, tree, metadata=metadata)
        temporary.rename(dest)
        sync_directory(dest.parent)
    except OSError as error:
        raise RunError(f"run '{dest}' cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Run(dest, recipe)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
