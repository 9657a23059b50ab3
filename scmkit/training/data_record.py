"""Whether a run's data is still the same: its digest is recorded, checked, and compared with a teacher's."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from scmkit.composing.datasets import dataset_of
from scmkit.composing.recipe import Recipe
from scmkit.data.derived import data_digest
from scmkit.errors import DataError, RunError
from scmkit.plugin import Slot
from scmkit.runs import checkpoint
from scmkit.runs.run import Run
from scmkit.training.progress import Reporter

KEY = "data"
"""The key of the data's digest in a checkpoint's metadata."""


def know_data(run: Run, reporter: Reporter) -> None:
    """Check a run's data, and put its digest into the recipe, in memory, where the recipe has none.

    Raises `DataError` where the data is not what the recipe says, or not of the size that the newest
    checkpoint says, and `RunError` where that checkpoint is of other data than the recipe's.
    """
    data, dataset = run.recipe.data, dataset_of(run.recipe)
    saved = checkpoint.metadata(checkpoint.latest(run.checkpoints)) if run.step else {}
    check_noted(run, saved)
    if data.digest is not None:
        return
    size = dataset.size("train")
    if (then := saved.get("loader", {}).get("size", size)) != size:
        raise DataError(
            f"data '{data.source}' has {size} samples to train on, and had {then} when the run began; put "
            "that back, or begin a new run (`scmkit train --teacher RUN` starts from the old one's weights)"
        )
    if run.step:
        reporter.message(
            f"run '{run.path}' has no digest of its data, as runs of earlier versions: whether "
            f"'{data.source}' is still what it began with cannot be told; from now on it is noted"
        )
    run.recipe = run.recipe.replace(data=dataclasses.replace(data, digest=data_digest(dataset)))


def mind_pairs(recipe: Recipe, reporter: Reporter) -> None:
    """Say that the noise stored with the data is not used, where no coupling takes it."""
    if recipe.data.paired and Slot.coupling not in recipe.slots:
        reporter.message(
            f"data '{recipe.data.source}' has a noise stored with each sample, which this training does not "
            "use; --plugin stored takes it, with a loss that looks at a coupling's noise, such as reflow"
        )


def compare_data(run: Run, teacher: Run, reporter: Reporter) -> None:
    """Say where a run's data is not what its teacher was trained on, or where that cannot be told."""
    ours, theirs = run.recipe.data, teacher.recipe.data
    if ours.digest is None or theirs.digest is None:
        reporter.message(
            f"teacher '{teacher.path}' has no digest of its data: whether it is this run's cannot be told"
        )
    elif changed := list(ours.digest.differences(theirs.digest)):
        reporter.message(
            f"this run's data ('{ours.source}') is not what teacher '{teacher.path}' was trained on "
            f"('{theirs.source}'): {'; '.join(changed)}"
        )


def noted(run: Run) -> dict[str, Any]:
    """The digest of a run's data, for the metadata of a checkpoint; empty where there is none."""
    digest = run.recipe.data.digest
    return {} if digest is None else {KEY: digest.hex}


def check_noted(run: Run, metadata: Mapping[str, Any]) -> None:
    """Raises `RunError` where a checkpoint's metadata name other data than the recipe does."""
    now = noted(run).get(KEY)
    if now is not None and metadata.get(KEY, now) != now:
        raise RunError(
            f"run '{run.path}' has a checkpoint of training on other data than '{run.recipe.data.source}', "
            "which its recipe.json names; restore recipe.json from a backup"
        )
