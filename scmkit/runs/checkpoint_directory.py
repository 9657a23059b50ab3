"""A directory of checkpoints: which of them are complete, and how one takes a place in it or leaves it.

At every moment what is on disk is complete, old or new: a checkpoint is written beside the others under a
temporary name, renamed into place, and renamed again before it is removed.
"""

import contextlib
import itertools
import os
import re
import shutil
from pathlib import Path

from scmkit.runs.manifest import MANIFEST, Damage, read_manifest
from scmkit.storage.files import sync_directory

TEMPORARY = ".tmp-"
"""What the name of a checkpoint begins with that is not all there, yet or any more."""

REPLACED = ".old"
"""What the name of a checkpoint ends with while another takes its place."""

DAMAGED = "damaged-"
"""What the name of a checkpoint begins with that was set aside."""

PLANNED = "planned"
"""The key in the metadata of a checkpoint that is false where it was saved out of turn."""


def complete(directory: Path) -> dict[int, Path]:
    """The paths of the complete checkpoints in a directory by their steps, in ascending order."""
    # Sorted by name, a replaced checkpoint comes after its replacement, and counts only where there is none.
    found: dict[int, Path] = {}
    for path in sorted(directory.glob("[0-9]*")):
        match = re.fullmatch(rf"([0-9]+)({re.escape(REPLACED)})?", path.name)
        if match and (path / MANIFEST).is_file():
            found.setdefault(int(match[1]), path)
    return dict(sorted(found.items()))


def put_in_place(temporary: Path, target: Path) -> None:
    """Rename a checkpoint to its place, and remove the one that it replaces, if any."""
    replaced = target.with_name(target.name + REPLACED)
    if os.path.lexists(target):
        target.rename(replaced)
    temporary.rename(target)
    sync_directory(target.parent)
    if os.path.lexists(replaced):
        _remove(replaced)


def remove_older(directory: Path, step: int, keep: int) -> None:
    """Remove all checkpoints before `step` but the newest `keep` planned ones; 0 keeps all."""
    if not keep:
        return
    there = {other: path for other, path in complete(directory).items() if other <= step}
    # From the newest on, as to read and check a manifest takes time.
    planned = (other for other in reversed(there) if is_planned(there[other]))
    stays = {step, *itertools.islice(planned, keep)}
    for other, path in there.items():
        if other not in stays:
            _remove(path)


def is_planned(path: Path) -> bool:
    """Whether a checkpoint was saved in turn; also true where that cannot be read."""
    with contextlib.suppress(Damage):
        return read_manifest(path)[0].metadata.get(PLANNED, True)
    return True


def _remove(path: Path) -> None:
    # Renamed first: a checkpoint that is half removed must not look complete.
    delete(path.rename(path.with_name(TEMPORARY + path.name)))


def delete(path: Path) -> None:
    """Remove a folder; of a link only the link, as the folder behind it is somebody else's."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def clean(directory: Path) -> None:
    """Finish what a crashed writer began: remove its temporary directory, end a replacement half done."""
    for path in directory.glob(f"{TEMPORARY}*"):
        delete(path)
    for path in directory.glob(f"[0-9]*{REPLACED}"):
        target = path.with_name(path.name.removesuffix(REPLACED))
        if os.path.lexists(target):
            _remove(path)
        else:
            path.rename(target)
