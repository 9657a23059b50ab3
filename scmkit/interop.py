"""Weights from elsewhere as runs, and runs as files for elsewhere."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from scmkit.assembly import build_free, build_model
from scmkit.blame import blaming
from scmkit.composition import compose
from scmkit.containment import parse_json
from scmkit.errors import RunError, UsageError
from scmkit.files import sync_directory
from scmkit.interfaces import AbstractImporter
from scmkit.model import Model
from scmkit.plugin import Slot
from scmkit.recipe import Recipe
from scmkit.training import checkpoint
from scmkit.training.arrays import is_saved, named_leaves
from scmkit.training.run import Run
from scmkit.weights import read_weights, write_safetensors

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

    Raises `DataError` for a file that cannot be read, `UsageError` where it holds another network or the
    settings ask for another size than it has, or the directory exists.
    """
    file, settings = Path(file), dict(settings or {})
    own = {k.partition(".")[2]: v for k, v in settings.items() if k.startswith(f"{importer}.")}
    reader: AbstractImporter = build_free(Slot.importer, importer, own)
    weights = read_weights(file)
    try:
        found = reader.read(weights.arrays, weights.metadata)
    except ValueError as error:
        raise UsageError(f"'{file}' is not for importer '{importer}': {error}") from None
    once = {"train.steps": 1, "train.keep": 0}
    recipe = compose(found.plugins, {**found.settings, **once, **settings}, data=found.data)
    model = _filled(recipe, found.leaves, str(file), found.settings)
    return _write_run(Path(dest), recipe, model, {"converted": {"from": file.name, "by": importer}})


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
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(run.model) if is_saved(leaf)}
    metadata = {RECIPE: json.dumps(run.recipe.to_json()), "format": "scmkit"}
    write_safetensors(dest, arrays, metadata)


def restore_exported(file: str | Path, dest: str | Path) -> Run:
    """The run of a file that `export` wrote; the same weights bit for bit.

    Raises `UsageError` if the file has no recipe in it.
    """
    file = Path(file)
    weights = read_weights(file)
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
    # What is left of the training is its result: neither a teacher nor steps to go.
    train = recipe.to_json() | {"teacher": None, "teacher_role": "none"}
    train["train"] = train["train"] | {"steps": 1}
    model = _filled(recipe, leaves, str(file), {})
    return _write_run(
        Path(dest),
        Recipe.from_json(train),
        model,
        {"converted": {"from": file.name, "by": "scmkit"}},
    )


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
    for name, (source, array) in leaves.items():
        if name not in wanted:
            raise UsageError(f"'{file}': parameter '{source}' has no place in this model{remedy}")
        shape = wanted[name].shape
        if array.shape != shape:
            raise UsageError(
                f"'{file}': parameter '{source}' gives '{name}' the shape {_size(array.shape)}, this "
                f"model's is {_size(shape)}{remedy}"
            )
    for name, leaf in wanted.items():
        if is_saved(leaf) and name not in leaves:
            raise UsageError(f"'{file}' has nothing for '{name}' of this model{remedy}")
    values = [
        leaves[name][1].astype(leaf.dtype) if is_saved(leaf) else leaf
        for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(skeleton), values)


def _write_run(dest: Path, recipe: Recipe, model: Model, metadata: Mapping[str, Any]) -> Run:
    """A finished run that holds averaged weights alone; whole or not at all."""
    if dest.exists():
        raise UsageError(f"'{dest}' exists; choose another name, or remove it first")
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
