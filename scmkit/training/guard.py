"""The guard: it looks at the loss of every step, and says where training goes on after a fault."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from scmkit.data import Loader
from scmkit.distribution import processes, pulse
from scmkit.errors import NonFiniteError
from scmkit.interfaces import Sample
from scmkit.runs import checkpoint
from scmkit.runs.run import Run
from scmkit.runs.saver import Saver
from scmkit.training.faults import report_path, save_fault, save_state, step_key
from scmkit.training.packed import Packed
from scmkit.training.placement import Placement
from scmkit.training.progress import Reporter, unseen
from scmkit.training.setup import Beginning
from scmkit.training.state import TrainState
from scmkit.training.step import Setting, StepMetrics

IN_FLIGHT = 2
"""Steps dispatched ahead of the one whose loss is being looked at."""


@dataclass(frozen=True)
class _Dispatched:
    """A step whose loss was not looked at yet, and what it takes to report it or do without it."""

    step: int
    metrics: StepMetrics
    hold: Bool[Array, ""]
    batch: Sample
    loader: dict[str, Any]
    """The loader's state behind this step's batch."""


class Restart(NamedTuple):
    """Where training goes on after a faulty step; the loader is then behind that step's batch."""

    state: TrainState
    saved: Mapping[str, Any] | None
    """After a rollback the metadata of the checkpoint that the state is of, empty for the initial state; None
    after a skipped batch."""


class Guard:
    """Looks at the losses of steps in flight; at one that is not finite it stops, skips or rolls back.

    A faulty step has changed nothing, and nor have the steps dispatched after it.

    **Attributes:**

    - `key`: the key from which all steps draw, another one after each rollback.
    - `hold`: whether the newest step was faulty or held, for the next step to be held, too.
    - `record`: the faults so far, for the metadata of a checkpoint.
    """

    def __init__(
        self,
        run: Run,
        loader: Loader,
        setting: Setting,
        placement: Placement,
        saver: Saver,
        reporter: Reporter,
        *,
        initial: Beginning | None,
        record: Mapping[str, int] | None,
    ) -> None:
        """`initial` is what to roll back to before the first checkpoint; `record` is that of the checkpoint
        from which the run goes on."""
        self.run, self.settings, self.loader, self.setting = run, run.recipe.train, loader, setting
        self.placement, self.reporter, self._initial = placement, reporter, initial
        self.saver = saver
        self.record = dict(record or {"row": 0, "last": 0, "rollbacks": 0})
        self._in_flight: deque[_Dispatched] = deque()
        self._begin_anew()

    def dispatched(
        self, step: int, batch: Sample, metrics: StepMetrics, hold: Bool[Array, ""]
    ) -> None:
        """Note a step that was just dispatched, on the loader's newest batch."""
        self.hold = hold
        self._in_flight.append(_Dispatched(step, metrics, hold, batch, self.loader.state()))

    def look(
        self, state: Packed[TrainState], *, leave: int = IN_FLIGHT
    ) -> tuple[list[StepMetrics], Restart | None]:
        """Look at the oldest steps in flight, until `leave` are left or one was faulty.

        Returns the metrics of the good ones, on the host, and after a faulty one where training goes on.
        `state` is the newest state. Raises `NonFiniteError` where `train.on_nonfinite` or
        `train.nonfinite_limit` has training stop at the fault.
        """
        good: list[StepMetrics] = []
        while len(self._in_flight) > leave:
            oldest = self._in_flight.popleft()
            metrics, hold = jax.device_get((oldest.metrics, oldest.hold))
            if hold:
                return good, self._answer(oldest, metrics, state.tree)
            if oldest.step > self.record["last"]:
                self.record["row"] = 0
            good.append(metrics)
        return good, None

    def _answer(self, faulty: _Dispatched, metrics: StepMetrics, state: TrainState) -> Restart:
        """Stop, skip or roll back at a faulty step."""
        record, settings = self.record, self.settings
        self.saver.wait()  # What is said of checkpoints below is said of those on disk.
        said, report = self._report(faulty, metrics, state)
        record["row"] += 1
        record["last"] = max(record["last"], faulty.step)
        if settings.on_nonfinite == "stop" or record["row"] >= settings.nonfinite_limit:
            raise self._stopped(said, faulty.step, report)
        if settings.on_nonfinite == "skip":
            self._begin_anew()
            self.reporter.message(f"{said} ({report}): batch skipped")
            return Restart(eqx.tree_at(lambda s: s.step, state, state.step + 1), None)
        record["rollbacks"] += 1
        self._begin_anew()
        restart = self._back(state)
        self.reporter.message(
            f"{said} ({report}): back to step {int(restart.state.step)}, with other batches and noise"
        )
        return restart

    def _report(
        self, faulty: _Dispatched, metrics: StepMetrics, state: TrainState
    ) -> tuple[str, Path]:
        """Save a faulty step; returns a line that says what is not finite, and the report's path."""
        self.loader.restore(faulty.loader)
        record = {
            "step": faulty.step,
            "loss": repr(float(metrics.means["loss"])),
            "grad_norm": repr(float(metrics.means["grad_norm"])),
            "indices": self.loader.last_indices().tolist(),
            "rollbacks": self.record["rollbacks"],
        }
        with unseen(self.reporter):
            save_state(self.run, record, state)
            local = self.placement.local((state, self.setting, faulty.batch, self.key))

            def examined() -> str:
                with pulse.apart():
                    return save_fault(self.run, record, *local)[0].cause

            # Nobody goes on, or ends, before the report is there.
            cause = processes.by_first("fault", examined)
        return f"the {cause} at step {faulty.step}", report_path(self.run, faulty.step)

    def _stopped(self, said: str, step: int, report: Path) -> NonFiniteError:
        run, row = self.run, self.record["row"]
        known = checkpoint.steps(run.checkpoints)
        kept = f"the last good checkpoint is step {known[-1]}" if known else "nothing was saved yet"
        in_a_row = f", {row} faults in a row" if row > 1 else ""
        return NonFiniteError(
            f"{run.path.name}: {said}{in_a_row}; {kept} in {run.path}. See which samples with "
            f"`scmkit replay {run.path} --step {step}` (report: {report}); lower --lr, set train.clip, or "
            "lengthen the warmup"
        )

    def _back(self, state: TrainState) -> Restart:
        """The newest planned checkpoint, or else the initial state.

        A checkpoint saved at a signal does not count: without the signal there would be none at its step, and
        the run would end elsewhere.
        """
        newest = checkpoint.newest_planned(self.run.checkpoints)
        if newest is not None:
            restored = checkpoint.restore(newest, self.placement.layout.like(state))
            return Restart(restored, checkpoint.metadata(newest))
        assert self._initial is not None
        return Restart(self._initial.state(), {})

    def _begin_anew(self) -> None:
        """No step is in flight, and the next one is not held."""
        self._in_flight.clear()
        key = step_key(self.settings.seed, self.record["rollbacks"])
        self.key = self.placement.everywhere(key)
        # Placed as a step returns it, or the step would be compiled once more.
        self.hold = self.placement.everywhere(jnp.zeros((), bool))
