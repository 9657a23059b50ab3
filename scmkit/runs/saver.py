"""Checkpoints that are written while training goes on."""

import copy
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from scmkit.runs.array_writer import Plan, copied, plans
from scmkit.runs.saving import Saving

WORTHWHILE = 1 << 26
"""Bytes of a state from which on it is written beside the training: less takes a few tenths of a second."""


class Saver:
    """Saves one checkpoint at a time, of which training waits only for the copy to the host.

    The host has a copy of what this process writes until that is on disk. The previous checkpoint stays until
    the new one is in its place, so a kill loses no more than it does with `checkpoint.save`.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self,
        directory: Path,
        step: int,
        tree: PyTree,
        *,
        metadata: Mapping[str, Any] | None = None,
        keep: int = 2,
        planned: bool = True,
        notes: Mapping[str, Any] | None = None,
    ) -> Path:
        """`checkpoint.save`, which may end later than this: at `wait`, or before the next save.

        Returns the path where the checkpoint will be. The tree may be donated then. Raises `CheckpointError`
        if this or the previous checkpoint cannot be written.
        """
        self.wait()
        # The caller's own may change before they are written.
        said, noted = copy.deepcopy((dict(metadata or {}), notes))
        saving = Saving(directory, step, said, noted, keep, planned)
        with saving.reporting():
            arrays = plans(tree)
        # Of the whole state, so that all processes decide alike.
        if sum(plan.nbytes for plan in arrays.values()) < WORTHWHILE:
            saving.write(arrays)
        else:
            arguments = (saving, copied(arrays))
            self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint")
            self._thread.start()
        return saving.target

    def _write(self, saving: Saving, arrays: Mapping[str, Plan]) -> None:
        try:
            saving.write(arrays, "checkpoint beside training")
        except BaseException as error:
            self._error = error

    def wait(self) -> None:
        """Wait for what is being saved, if anything. Raises `CheckpointError` if it cannot be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
