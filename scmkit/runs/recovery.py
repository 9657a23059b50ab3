"""Directories of checkpoints after a crash or damage."""

import os
from pathlib import Path

from scmkit.errors import CheckpointError
from scmkit.runs.checkpoint import damaged, problem
from scmkit.runs.checkpoint_directory import (
    DAMAGED,
    REPLACED,
    clean,
    complete,
    delete,
    remove_older,
)
from scmkit.runs.manifest import Damage


def recover(directory: Path, *, keep: int = 0) -> list[str]:
    """Finish what a crash left, and set aside the damaged checkpoints newer than the newest good one.

    Those are renamed to `damaged-STEP`, do not count any more, and are removed when training has saved that
    step again. Of the others the newest `keep` stay, as after `checkpoint.save`. Returns a line on each
    damaged checkpoint. Raises `CheckpointError`, having renamed none, if there are checkpoints and none is
    good, or if the directory cannot be written.
    """
    bad: list[tuple[Path, str]] = []
    try:
        clean(directory)
        for path in reversed(complete(directory).values()):
            wrong = problem(path)
            if wrong is None:
                break
            bad.append((path, wrong))
        else:
            if bad:
                raise damaged(bad[0][0], Damage(bad[0][1]))
        for path, _ in bad:
            aside = path.with_name(DAMAGED + path.name.removesuffix(REPLACED))
            if os.path.lexists(aside):
                delete(aside)
            path.rename(aside)
        step = max(complete(directory), default=0)
        remove_older(directory, step, keep)
    except OSError as error:
        raise CheckpointError(
            f"{directory} cannot be written ({error.strerror}); make it writable or work on a copy"
        ) from error
    return [
        f"checkpoint {path} {wrong}; it is set aside, and training continues from step {step}"
        for path, wrong in bad
    ]
