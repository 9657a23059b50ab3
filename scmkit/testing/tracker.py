"""Checks of trackers, in a temporary directory."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scmkit.interfaces import AbstractTracker
from scmkit.plugin import Slot
from scmkit.testing.check import require
from scmkit.testing.family import Family
from scmkit.testing.workbench import Bench

Open = Callable[[Path], AbstractTracker]


def a_run_is_tracked(open_tracker: Open) -> None:
    with tempfile.TemporaryDirectory() as directory:
        tracker = open_tracker(Path(directory))
        for step in (1, 2):
            tracker.log(step, {"loss": 1.0 / step, "grad_norm": 2.0})
        tracker.image(2, "samples", np.zeros((8, 12, 3), np.uint8))
        tracker.close()


def a_resumed_run_is_tracked_on(open_tracker: Open) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for steps in ((1, 2), (2, 3)):
            tracker = open_tracker(Path(directory))
            for step in steps:
                tracker.log(step, {"loss": 1.0 / step})
            tracker.close()


def what_was_there_stays(open_tracker: Open) -> None:
    with tempfile.TemporaryDirectory() as directory:
        recipe = Path(directory) / "recipe.json"
        recipe.write_text("{}")
        tracker = open_tracker(Path(directory))
        tracker.log(1, {"loss": 1.0})
        tracker.close()
        require(recipe.read_text() == "{}", "the run's own files were changed")


def arrange(bench: Bench) -> Open:
    return lambda directory: bench.build_free(Slot.tracker, directory)


FAMILY = Family(arrange, (a_run_is_tracked, a_resumed_run_is_tracked_on, what_was_there_stays))
