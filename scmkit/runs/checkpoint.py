"""Checkpoints: any pytree of arrays as a directory of zarr3 arrays, written whole or not at all.

`DIRECTORY/00001000/` holds one array per leaf under `arrays/`, named after the leaf's place in the
tree, and `COMMIT.json` with the SHA-256 of every file. An array has a file for each part that it is divided
into on the devices. Any zarr3 reader can open the arrays.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax.tree_util as jtu
from jaxtyping import PyTree

from scmkit.distribution import processes
from scmkit.errors import CheckpointError
from scmkit.runs.array_reader import is_shared, read_arrays
from scmkit.runs.array_writer import plans
from scmkit.runs.arrays import FOLDER, describe, is_saved, named_leaves
from scmkit.runs.checkpoint_directory import complete, is_planned
from scmkit.runs.manifest import NOTES, Damage, Manifest, read_manifest, verify
from scmkit.runs.saving import Saving, together
from scmkit.storage.containment import parse_json, read_bounded

T = TypeVar("T")


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

    At every moment the disk holds a complete checkpoint, the old or the new one. One training at a time may
    save to a directory; where several processes train together all of them save, to a disk that they share,
    and each writes a part. Returns the checkpoint's path.

    **Arguments:**

    - `tree`: jax arrays on any devices, typed PRNG keys and numpy arrays are saved; leaves that are no
        arrays are not. What a process holds by itself must be the same in all processes.
    - `metadata`: anything that JSON can hold; `metadata(path)` gives it back.
    - `keep`: how many planned checkpoints to keep, this one included; 0 keeps all. Checkpoints of later steps
        always stay.
    - `planned`: False for a checkpoint out of turn, such as one at a signal. The metadata say so, and it
        stays beside the planned ones until the next checkpoint is saved.
    - `notes`: anything that JSON can hold and that differs between runs of one seed, such as timings;
        `notes(path)` gives it back. The checkpoint's digest does not cover it.

    Raises `CheckpointError` if the checkpoint cannot be written; earlier ones are then untouched.
    """
    saving = Saving(directory, step, metadata or {}, notes, keep, planned)
    with saving.reporting():
        arrays = plans(tree)
    saving.write(arrays)
    return saving.target


def restore(path: Path, like: PyTree, *, prefix: str = "") -> PyTree:
    """The tree saved at `path`, bit for bit, in the structure of `like`.

    **Arguments:**

    - `like`: arrays, or `jax.ShapeDtypeStruct`s (`eqx.filter_eval_shape`), of the expected shapes and dtypes.
        A leaf with a `sharding` is restored to the devices that it names. Where `like` has numpy arrays, so
        has the result; leaves of `like` that are no arrays are kept.
    - `prefix`: the name of a subtree, such as `"players/generator/ema"`, to read nothing else; `like` is
        then that subtree.

    Each process reads the parts that its devices are to hold, from any number of files. Where leaves are to
    be spread over several processes, all of them call this; each checks a share of the files, and an error of
    one is raised in all. Raises `CheckpointError`, which names the file or leaf, if anything is missing,
    altered, left over or of another shape or dtype.
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
        files = {n: file for n, file in content.files.items() if _is_under(n, folder)}
        if any(map(is_shared, wanted.values())):
            mine = [*files][processes.index() :: processes.count()]
            with together("restore/verified"):
                verify(path, {name: files[name] for name in mine})
            with together("restore/read"):
                values = read_arrays(path, wanted, saved)
        else:
            verify(path, files)
            values = read_arrays(path, wanted, saved)
    except Damage as error:
        raise damaged(path, error) from error
    except processes.PeerFailed as error:
        raise CheckpointError(f"{path} cannot be restored ({error})") from error
    return jtu.tree_unflatten(structure, (leaves | values).values())


def _as_saved(name: str, saved: Collection[str]) -> str:
    """The name of a leaf in a checkpoint, where version 0.1 gave it another."""
    old = name.replace("/scalars/embeddings/guidance/", "/guidance/")
    return old if name not in saved and old in saved else name


def metadata(path: Path) -> dict[str, Any]:
    """The metadata saved at `path`. Raises `CheckpointError`."""
    return _manifest(path)[0].metadata


def notes(path: Path) -> dict[str, Any]:
    """The notes saved at `path`, which no digest covers; none where they are missing or damaged."""
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
    return list(complete(directory))


def newest_planned(directory: Path) -> Path | None:
    """The newest complete checkpoint that was not saved out of turn; None where there is none."""
    planned = [path for path in complete(directory).values() if is_planned(path)]
    return planned[-1] if planned else None


def latest(directory: Path) -> Path:
    """The newest complete checkpoint in `directory`. Raises `CheckpointError` if there is none."""
    found = complete(directory)
    if not found:
        raise CheckpointError(
            f"{directory} holds no complete checkpoint; train until the first one is saved"
        )
    return found[max(found)]


def of_latest(directory: Path, read: Callable[[Path], T]) -> T:
    """The result of `read` for the newest checkpoint, or for the next if training removes that meanwhile.

    Raises `CheckpointError`.
    """
    while True:
        path = latest(directory)
        try:
            return read(path)
        except CheckpointError:
            if path in complete(directory).values():
                raise


def problem(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, naming the file; None if every byte is right."""
    try:
        verify(path, read_manifest(path)[0].files)
    except Damage as error:
        return str(error)
    return None


def _is_under(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}/")


def _manifest(path: Path) -> tuple[Manifest, str]:
    try:
        return read_manifest(path)
    except Damage as error:
        raise damaged(path, error) from error


def damaged(path: Path, damage: Damage) -> CheckpointError:
    """The error for a damaged checkpoint, which names the newest good one beside it."""
    others = [*complete(path.parent).values(), *complete(path).values()]
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
            problem = f"holds leaf '{name}', which is not asked for"
        elif _kind(saved[name]) != _kind(describe(wanted[name])):
            asked = _kind(describe(wanted[name]))
            problem = f"holds leaf '{name}' as {_kind(saved[name])}, and {asked} is asked for"
        else:
            continue
        raise CheckpointError(f"{path} {problem}; build what was saved, from the recipe beside it")


def _kind(record: Mapping[str, Any]) -> str:
    return f"{record['dtype']}[{','.join(map(str, record['shape']))}]"
