"""Checkpoints: any pytree of arrays as a directory of zarr3 arrays, written whole or not at all.

`DIRECTORY/00001000/` holds one array per leaf under `arrays/`, named after the leaf's place in the
tree, and `COMMIT.json` with the SHA-256 of every file. Any zarr3 reader can open the arrays.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from scmkit.errors import CheckpointError
from scmkit.runs.arrays import (
    FOLDER,
    describe,
    is_saved,
    named_leaves,
    read_arrays,
    short,
    write_arrays,
)
from scmkit.runs.manifest import (
    MANIFEST,
    NOTES,
    Damage,
    Manifest,
    commit,
    read_manifest,
    verify,
)
from scmkit.storage import finite
from scmkit.storage.containment import parse_json, read_bounded
from scmkit.storage.files import make_durably, sync_directory

T = TypeVar("T")

_TEMPORARY = ".tmp-"
_REPLACED = ".old"
_PLANNED = "planned"
DAMAGED = "damaged-"
"""What the name of a checkpoint begins with that was set aside."""


def save(
    directory: Path,
    step: int,
    tree: PyTree,
    *,
    metadata: Mapping[str, Any] | None = None,
    keep: int = 2,
    planned: bool = True,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write the arrays of `tree` to `directory/STEP`, and keep the newest `keep` planned checkpoints.

    At every moment what is on disk is complete, old or new. One process at a time may save to a
    directory. Returns the checkpoint's path.

    **Arguments:**

    - `tree`: jax arrays on any local devices, typed PRNG keys and numpy arrays are saved; leaves
      that are no arrays are not.
    - `metadata`: anything JSON can hold; `metadata(path)` gives it back.
    - `keep`: how many to keep, this one included; 0 keeps all. Those of later steps always stay.
    - `planned`: False for one out of turn, such as at a signal, which stays until the next is saved, beside
        the others; it is noted in the metadata.
    - `notes`: JSON as well, which `notes(path)` gives back: what belongs to a checkpoint but differs between
        runs of one seed, such as what was timed. The checkpoint's digest does not cover it.

    Raises `CheckpointError` if it cannot be written; earlier checkpoints are then untouched.
    """
    target = directory / f"{step:08d}"
    temporary = directory / f"{_TEMPORARY}{target.name}"
    try:
        make_durably(directory)
        _clean(directory)
        temporary.mkdir()
        leaves = write_arrays(temporary, tree)
        noted = {} if planned else {_PLANNED: False}
        commit(temporary, step, {**(metadata or {}), **noted}, leaves, notes)
        _put_in_place(temporary, target)
        shutil.rmtree(directory / f"{DAMAGED}{target.name}", ignore_errors=True)
        _remove_older(directory, step, keep)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {target} cannot be written ({short(error)}); free some space or choose "
            "another directory, earlier checkpoints are untouched"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def restore(path: Path, like: PyTree, *, prefix: str = "") -> PyTree:
    """The tree saved at `path`, bit for bit, in the structure of `like`.

    **Arguments:**

    - `like`: arrays or `jax.ShapeDtypeStruct`s (`eqx.filter_eval_shape`) say what is expected, and
      a `sharding` among them where to put it. Numpy arrays come back as such; leaves that are no
      arrays are kept.
    - `prefix`: read only the subtree of that name, such as `"players/generator/ema"`; `like` is
      then that subtree.

    Raises `CheckpointError`, which names the file or leaf, if anything is missing, altered, left
    over or of another shape or dtype.
    """
    structure = jtu.tree_structure(like)
    leaves = dict(named_leaves(like))
    if prefix and jtu.treedef_is_leaf(structure):
        leaves = {prefix: like}
    elif prefix:
        leaves = {f"{prefix}/{name}": leaf for name, leaf in leaves.items()}
    content, _ = _manifest(path)
    saved = {name: leaf for name, leaf in content.leaves.items() if _is_under(name, prefix)}
    leaves = {_as_saved(name, saved): leaf for name, leaf in leaves.items()}
    wanted = {name: leaf for name, leaf in leaves.items() if is_saved(leaf)}
    _compare(path, saved, wanted)
    try:
        folder = f"{FOLDER}/{prefix}".rstrip("/")
        verify(path, {n: file for n, file in content.files.items() if _is_under(n, folder)})
        values = read_arrays(path, wanted, saved)
    except Damage as error:
        raise _damaged(path, error) from error
    return jtu.tree_unflatten(structure, (leaves | values).values())


def _as_saved(name: str, saved: Collection[str]) -> str:
    """The name of a leaf in a checkpoint, where version 0.1 gave it another."""
    old = name.replace("/scalars/embeddings/guidance/", "/guidance/")
    return old if name not in saved and old in saved else name


def metadata(path: Path) -> dict[str, Any]:
    """The metadata saved at `path`. Raises `CheckpointError`."""
    return _manifest(path)[0].metadata


def notes(path: Path) -> dict[str, Any]:
    """The notes saved at `path`; none where they are missing or damaged, as no digest covers them."""
    try:
        found = parse_json(read_bounded(path / NOTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(path: Path) -> str:
    """The SHA-256 of the manifest, and so of every byte at `path`. Raises `CheckpointError`."""
    return _manifest(path)[1]


def steps(directory: Path) -> list[int]:
    """The steps of the complete checkpoints in `directory`, in order."""
    return list(_complete(directory))


def newest_planned(directory: Path) -> Path | None:
    """The newest complete checkpoint but those out of turn."""
    planned = [path for path in _complete(directory).values() if _is_planned(path)]
    return planned[-1] if planned else None


def latest(directory: Path) -> Path:
    """The newest complete checkpoint in `directory`. Raises `CheckpointError` if there is none."""
    complete = _complete(directory)
    if not complete:
        raise CheckpointError(
            f"{directory} holds no complete checkpoint; train until the first one is saved"
        )
    return complete[max(complete)]


def of_latest(directory: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of the newest checkpoint; of the next where training has removed that meanwhile.

    Raises `CheckpointError`.
    """
    while True:
        path = latest(directory)
        try:
            return read(path)
        except CheckpointError:
            if path in _complete(directory).values():
                raise


def problem(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, naming the file; None if every byte is right."""
    try:
        verify(path, read_manifest(path)[0].files)
    except Damage as error:
        return str(error)
    return None


def not_finite(path: Path) -> str | None:
    """Which arrays of the checkpoint at `path` hold NaN or infinity; None if there are none.

    Such a checkpoint is not damaged: it can be read, and resumed. One array is in memory at a time.
    """
    try:
        leaves = read_manifest(path)[0].leaves
        like = np.empty(0)
        numbers = (name for name, leaf in leaves.items() if "key" not in leaf)
        arrays = ((name, read_arrays(path, {name: like}, leaves)[name]) for name in numbers)
        found = finite.not_finite(arrays)
    except Damage as error:
        return str(error)
    return None if found is None else f"is as it was written, and has {found}"


def recover(directory: Path, *, keep: int = 0) -> list[str]:
    """Finish what a crash left, and set aside the damaged checkpoints newer than the newest good one.

    They are renamed to `damaged-STEP`, do not count any more, and go when training has saved that step
    again. Of the others the newest `keep` stay, as after `save`. Returns a line on each damaged one.
    Raises `CheckpointError`, having renamed none, if there are checkpoints and none is good, or if the
    directory cannot be written.
    """
    damaged: list[tuple[Path, str]] = []
    try:
        _clean(directory)
        for path in reversed(_complete(directory).values()):
            wrong = problem(path)
            if wrong is None:
                break
            damaged.append((path, wrong))
        else:
            if damaged:
                raise _damaged(damaged[0][0], Damage(damaged[0][1]))
        for path, _ in damaged:
            aside = path.with_name(DAMAGED + path.name.removesuffix(_REPLACED))
            if os.path.lexists(aside):
                _delete(aside)
            path.rename(aside)
        step = max(_complete(directory), default=0)
        _remove_older(directory, step, keep)
    except OSError as error:
        raise CheckpointError(
            f"{directory} cannot be written ({error.strerror}); make it writable or work on a copy"
        ) from error
    return [
        f"checkpoint {path} {wrong}; it is set aside, and training continues from step {step}"
        for path, wrong in damaged
    ]


def _complete(directory: Path) -> dict[int, Path]:
    # Sorted by name, a replaced checkpoint comes after, and counts only without, its replacement.
    found: dict[int, Path] = {}
    for path in sorted(directory.glob("[0-9]*")):
        match = re.fullmatch(rf"([0-9]+)({re.escape(_REPLACED)})?", path.name)
        if match and (path / MANIFEST).is_file():
            found.setdefault(int(match[1]), path)
    return dict(sorted(found.items()))


def _put_in_place(temporary: Path, target: Path) -> None:
    replaced = target.with_name(target.name + _REPLACED)
    if os.path.lexists(target):
        target.rename(replaced)
    temporary.rename(target)
    sync_directory(target.parent)
    if os.path.lexists(replaced):
        _remove(replaced)


def _remove_older(directory: Path, step: int, keep: int) -> None:
    """Remove all before `step` but the newest planned ones, of which `keep` stay."""
    complete = {other: path for other, path in _complete(directory).items() if other <= step}
    stays = [other for other, path in complete.items() if _is_planned(path)][-keep:]
    for other, path in complete.items():
        if keep and other != step and other not in stays:
            _remove(path)


def _is_planned(path: Path) -> bool:
    # One that is damaged is passed over elsewhere, not here.
    with contextlib.suppress(CheckpointError):
        return metadata(path).get(_PLANNED, True)
    return True


def _remove(path: Path) -> None:
    # Renamed first: one that is half removed must not look complete.
    _delete(path.rename(path.with_name(_TEMPORARY + path.name)))


def _delete(path: Path) -> None:
    """Remove a folder; of a link the link alone, as what it points to is somebody else's."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _clean(directory: Path) -> None:
    """Finish what a crashed writer left: its temporary directory, or a replacement half done."""
    for path in directory.glob(f"{_TEMPORARY}*"):
        _delete(path)
    for path in directory.glob(f"[0-9]*{_REPLACED}"):
        target = path.with_name(path.name.removesuffix(_REPLACED))
        if os.path.lexists(target):
            _remove(path)
        else:
            path.rename(target)


def _is_under(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}/")


def _manifest(path: Path) -> tuple[Manifest, str]:
    try:
        return read_manifest(path)
    except Damage as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, damage: Damage) -> CheckpointError:
    """The error for a damaged checkpoint; its remedy is the newest other one that is good."""
    others = [*_complete(path.parent).values(), *_complete(path).values()]
    for other in sorted(others, key=lambda path: path.name, reverse=True):
        try:
            if other != path:
                verify(other, read_manifest(other)[0].files)
                return CheckpointError(f"{path} {damage}; the newest other good one is {other}")
        except Damage:
            continue
    return CheckpointError(
        f"{path} {damage}; there is no other good one beside it, restore a backup or train again"
    )


def _compare(path: Path, saved: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any]) -> None:
    for name in [*wanted, *saved]:
        if name not in saved:
            problem = f"has no leaf '{name}', which is asked for"
        elif name not in wanted:
            problem = f"holds leaf '{name}', which what is asked for lacks"
        elif _kind(saved[name]) != _kind(describe(wanted[name])):
            asked = _kind(describe(wanted[name]))
            problem = f"holds leaf '{name}' as {_kind(saved[name])}, and {asked} is asked for"
        else:
            continue
        raise CheckpointError(f"{path} {problem}; build what was saved, from the recipe beside it")


def _kind(record: Mapping[str, Any]) -> str:
    return f"{record['dtype']}[{','.join(map(str, record['shape']))}]"
