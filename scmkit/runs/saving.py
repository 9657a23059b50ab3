"""How a checkpoint is written by all processes of a training: whole, or not at all."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmkit.distribution import processes
from scmkit.errors import CheckpointError
from scmkit.runs.array_writer import Plan, create_arrays, write_arrays
from scmkit.runs.arrays import short
from scmkit.runs.checkpoint_directory import (
    DAMAGED,
    PLANNED,
    TEMPORARY,
    clean,
    put_in_place,
    remove_older,
)
from scmkit.runs.manifest import commit, sealed
from scmkit.storage.files import make_durably

MEETING = "checkpoint"
"""What the names of the meetings of a save begin with."""


@dataclass(frozen=True)
class Saving:
    """A checkpoint that is to be written. The attributes are the arguments of `checkpoint.save`."""

    directory: Path
    step: int
    metadata: Mapping[str, Any]
    notes: Mapping[str, Any] | None
    keep: int
    planned: bool

    @property
    def target(self) -> Path:
        """Where the checkpoint will be."""
        return self.directory / f"{self.step:08d}"

    @property
    def temporary(self) -> Path:
        """Where it is written."""
        return self.directory / f"{TEMPORARY}{self.target.name}"

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Raises `CheckpointError` for what goes wrong here or, as a meeting tells, in another process."""
        try:
            yield
        except (OSError, ValueError, TypeError, processes.PeerFailed) as error:
            raise CheckpointError(
                f"checkpoint {self.target} cannot be written ({short(error)}); free some space or choose "
                "another directory, earlier checkpoints are untouched"
            ) from error

    def write(self, arrays: Mapping[str, Plan], meeting: str = MEETING) -> None:
        """Write the checkpoint with all other processes, who call this with the same arrays.

        `meeting` sets the meetings apart from those of saves at the same time. Raises `CheckpointError`,
        in every process, where one of them fails.
        """
        first, temporary = processes.index() == 0, self.temporary
        # Told in files, since all of them may be more than a message between processes can hold.
        told = [temporary / f"files-{other}.json" for other in range(1, processes.count())]
        names: list[str] = []
        with self.reporting():
            try:
                with together(f"{meeting}/created"):
                    if first:
                        make_durably(self.directory)
                        clean(self.directory)
                        temporary.mkdir()
                        names = create_arrays(temporary, arrays)
                with together(f"{meeting}/written"):
                    files = sealed(temporary, names + write_arrays(temporary, arrays))
                    if not first:
                        told[processes.index() - 1].write_text(json.dumps(files))
                with together(f"{meeting}/committed"):
                    if first:
                        for file in told:
                            files |= json.loads(file.read_text())
                            file.unlink()
                        self._commit(arrays, files)
            finally:
                if first:
                    shutil.rmtree(temporary, ignore_errors=True)

    def _commit(self, arrays: Mapping[str, Plan], files: dict[str, dict[str, Any]]) -> None:
        if len(files) != sum(plan.files for plan in arrays.values()):
            raise ValueError("parts of its arrays lie on devices of no process that saves")
        noted = {} if self.planned else {PLANNED: False}
        records = {name: plan.record for name, plan in arrays.items()}
        metadata = {**self.metadata, **noted}
        commit(self.temporary, self.step, metadata, records, files, self.notes)
        put_in_place(self.temporary, self.target)
        shutil.rmtree(self.directory / f"{DAMAGED}{self.target.name}", ignore_errors=True)
        remove_older(self.directory, self.step, self.keep)


@contextlib.contextmanager
def together(meeting: str) -> Iterator[None]:
    """Do this process's part of a work; an error of any process is raised in all of them."""
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    processes.meet(meeting, failure)
