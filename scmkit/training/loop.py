"""The training loop: data in; checkpoints, metrics and pictures out."""

import contextlib
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scmkit.composing.build import Assembly, build_free
from scmkit.composing.datasets import dataset_of
from scmkit.data import Loader
from scmkit.errors import NonFiniteError
from scmkit.interfaces import AbstractTracker, Conditioning, Sample
from scmkit.plugin import Slot
from scmkit.runs import checkpoint
from scmkit.runs.metrics import METRICS, MetricsFile
from scmkit.runs.provenance import RECORD
from scmkit.runs.run import Run
from scmkit.sampling import save_png
from scmkit.training.data_record import check_noted, noted
from scmkit.training.faults import save_fault, step_key
from scmkit.training.metric_means import Window
from scmkit.training.preview import picture, preview_path
from scmkit.training.progress import Reporter, unseen
from scmkit.training.setup import rules_of, schedule_of, setting_of, state_before
from scmkit.training.signals import StopRequests
from scmkit.training.state import TrainState
from scmkit.training.step import StepMetrics, make_step

IN_FLIGHT = 2
"""Steps dispatched ahead of the one whose loss is being looked at."""


@dataclass(frozen=True)
class _Dispatched:
    """A step whose loss was not looked at yet, and what it takes to do without it or report it."""

    step: int
    metrics: StepMetrics
    batch: Sample
    loader: dict[str, Any]
    """The loader's state behind this step's batch."""


class Trainer:
    """Trains a run to its end, from its newest checkpoint where it has one.

    The key of step `i` is derived from the seed and `i`, the batch from the seed and the loader's
    position: a run that was stopped and resumed is bit for bit the run that never stopped.

    `whole` is the run to resume where it stops: the one around it, for a teacher trained along the way.
    """

    def __init__(
        self, run: Run, assembly: Assembly, reporter: Reporter, stop: StopRequests, *, whole: Path
    ) -> None:
        recipe, settings = run.recipe, run.recipe.train
        self.run, self.settings, self.reporter, self.name = run, settings, reporter, run.path.name
        self.stop, self.whole = stop, whole
        self.dataset = dataset_of(recipe)
        self.loader = Loader(self.dataset, recipe.data, settings.batch_size, settings.seed)
        self.schedule, self.stages = schedule_of(recipe), (0, *recipe.stages)
        self.step_fn = make_step(rules_of(recipe), settings.steps)
        state = state_before(recipe, assembly)
        saved = {}
        # The step donates the state, and before the first checkpoint this is what to roll back to.
        self._initial = jax.device_get(state) if settings.on_nonfinite == "rollback" else None
        if run.step:
            latest = checkpoint.latest(run.checkpoints)
            state, saved = checkpoint.restore(latest, state), checkpoint.metadata(latest)
            check_noted(run, saved)
            self.loader.restore(saved["loader"])
        samples, devices = settings.batch_size // settings.accumulate, jax.local_devices()
        used = devices_for(samples, len(devices))
        if used < len(devices):
            reporter.message(
                f"{samples} samples at a time do not divide among {len(devices)} devices: training on "
                f"{used}; choose train.batch_size / train.accumulate as a multiple of {len(devices)}"
            )
        mesh = jax.make_mesh((used,), ("data",), (AxisType.Auto,), devices=devices[:used])
        self.everywhere, self.by_sample = (
            NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",))
        )
        self.state: TrainState = eqx.filter_shard(state, self.everywhere)
        self.setting = eqx.filter_shard(setting_of(assembly), self.everywhere)
        self._faults = saved.get("faults", {"row": 0, "last": 0, "rollbacks": 0})
        self.key = step_key(settings.seed, self._faults["rollbacks"])
        self._hold = jnp.zeros((), bool)
        self.step = int(self.state.step)
        self.trackers: list[AbstractTracker] = [
            build_free(Slot.tracker, recipe.reference(n), recipe.plugins[n].config, run.path)
            for n in recipe.trackers
        ]
        self._unchecked: deque[_Dispatched] = deque()
        self._window = Window(saved.get("window"))

    def train(self) -> Path:
        """Run the loop; returns the path of the last picture.

        Saves, then raises `Interrupted` or `Preempted`, on Ctrl-C or SIGTERM; in the last step the caller
        does, as everything is done that there was to do. Raises `NonFiniteError`
        naming the step whose loss or gradient is not finite, where `train.on_nonfinite` or its limit says
        so; the last good checkpoint stays.
        """
        settings, stop, rollbacks = self.settings, self.stop, self._faults["rollbacks"]
        log = self._open_log()
        self.reporter.start(self.name, self.step, settings.steps)
        try:
            with self.loader:
                while self.step < settings.steps:
                    at = self.step + 1
                    self._advance()
                    last = self.step == settings.steps
                    stopped = stop.received is not None
                    if last or stopped or self._due_now():
                        self._check(leave=0)
                    if rollbacks != self._faults["rollbacks"]:
                        rollbacks = self._faults["rollbacks"]
                        log.close()
                        log = self._open_log()
                    if self.step != at:
                        continue
                    if last or self.step % settings.log_every == 0:
                        self._log(log)
                    else:
                        self.reporter.advance(self.step, None)
                    # Before the checkpoint, which promises that all before it is on disk.
                    if last or self._due(settings.sample_every):
                        self._draw()
                    planned = last or self._due(settings.checkpoint_every)
                    if stopped or planned:
                        log.sync()
                        saved = self._save(log, planned=planned)
                        if stopped and not last:
                            raise stop.error(
                                f"stopped at step {self.step}, saved to {saved}; "
                                f"continue with `scmkit resume {self.whole}`"
                            )
        finally:
            self.reporter.stop()
            log.close()
            # One that fails must not keep another from flushing.
            with contextlib.ExitStack() as closing:
                for tracker in self.trackers:
                    closing.callback(tracker.close)
        return preview_path(self.run.path, self.step)

    def _open_log(self) -> MetricsFile:
        return MetricsFile(self.run.path / "metrics.jsonl", self.step, whole=self.whole)

    def _due(self, every: int) -> bool:
        """Whether something happens now that happens `every` steps; for 0, four times a run."""
        return self.step % (every or math.ceil(self.settings.steps / 4)) == 0

    def _due_now(self) -> bool:
        """Whether anything is written at this step, which takes a look at all steps before."""
        settings = self.settings
        written = self._due(settings.checkpoint_every) or self._due(settings.sample_every)
        return written or self.step % settings.log_every == 0

    def _advance(self) -> None:
        x0, labels = next(self.loader)
        cond = Conditioning(None if labels is None else jnp.asarray(labels))
        x0, cond = jax.device_put((jnp.asarray(x0), cond), self.by_sample)
        batch = Sample(x0, cond)
        self.state, metrics = self.step_fn((self.setting, batch, self.key, self._hold), self.state)
        self._hold = metrics.hold
        self.step += 1
        self._unchecked.append(_Dispatched(self.step, metrics, batch, self.loader.state()))
        self._check(leave=IN_FLIGHT)

    def _check(self, *, leave: int) -> None:
        """Look at the oldest losses, so that the first bad step is named and never saved."""
        while len(self._unchecked) > leave:
            done = self._unchecked.popleft()
            metrics = jax.device_get(done.metrics)
            if metrics.hold:
                self._fault(done, metrics)
                return
            if done.step > self._faults["last"]:
                self._faults["row"] = 0
            self._window.add(metrics)

    def _fault(self, done: _Dispatched, metrics: StepMetrics) -> None:
        """Stop, skip or roll back at a faulty step; the steps behind it have changed nothing."""
        faults, settings = self._faults, self.settings
        self.loader.restore(done.loader)
        record = {
            "step": done.step,
            "loss": repr(float(metrics.means["loss"])),
            "grad_norm": repr(float(metrics.means["grad_norm"])),
            "indices": self.loader.last_indices().tolist(),
            "rollbacks": faults["rollbacks"],
        }
        with unseen(self.reporter):
            fault, report = save_fault(
                self.run, record, self.state, self.setting, done.batch, self.key
            )
        known = checkpoint.steps(self.run.checkpoints)
        what = "gradient norm" if math.isfinite(fault.loss) else "loss"
        value = fault.grad_norm if math.isfinite(fault.loss) else fault.loss
        faults["row"] += 1
        faults["last"] = max(faults["last"], done.step)
        if settings.on_nonfinite == "stop" or faults["row"] >= settings.nonfinite_limit:
            kept = (
                f"the last good checkpoint is step {known[-1]}"
                if known
                else "nothing was saved yet"
            )
            row = f", {faults['row']} faults in a row" if faults["row"] > 1 else ""
            raise NonFiniteError(
                f"{self.name}: the {what} is {value} at step {done.step}{row}; {kept} in "
                f"{self.run.path}. See which samples with `scmkit replay {self.run.path} --step "
                f"{done.step}` (report: {report}); lower --lr, set train.clip, or lengthen the warmup"
            )
        self._unchecked.clear()
        self._hold = jnp.zeros((), bool)
        said = f"the {what} is {value} at step {done.step} ({report})"
        if settings.on_nonfinite == "skip":
            self.reporter.message(f"{said}: batch skipped")
            self._window.skip()
            self.step = done.step
            self.state = eqx.tree_at(lambda s: s.step, self.state, self.state.step + 1)
            return
        faults["rollbacks"] += 1
        self.key = step_key(settings.seed, faults["rollbacks"])
        # Copied: jax may share a numpy array's memory, which the step would then donate.
        state, saved = jax.tree.map(_on_device, self._initial), {}
        # One at a signal is passed over: the run that got no signal would not have it.
        if newest := checkpoint.newest_planned(self.run.checkpoints):
            state, saved = checkpoint.restore(newest, self.state), checkpoint.metadata(newest)
        self.state = eqx.filter_shard(state, self.everywhere)
        self.step = int(self.state.step)
        self._window = Window(saved.get("window"))
        self.reporter.message(f"{said}: back to step {self.step}, with other batches and noise")

    def _updates(self) -> int:
        """The generator's updates since its stage began."""
        return self.step - max(start for start in self.stages if start < self.step)

    def _log(self, log: MetricsFile) -> None:
        self._check(leave=0)
        line = self._window.line(self.step) | {
            "lr": float(jnp.asarray(self.schedule(self._updates() - 1)))
        }
        self._window = Window()
        log.write(line)
        flat = {k: v for k, v in line.items() if isinstance(v, float)}
        for tracker in self.trackers:
            tracker.log(self.step, flat)
        self.reporter.advance(self.step, line)

    def _save(self, log: MetricsFile, *, planned: bool) -> Path:
        self._check(leave=0)
        return checkpoint.save(
            self.run.checkpoints,
            self.step,
            self.state,
            metadata={
                "loader": self.loader.state(),
                "window": self._window.state(),
                "faults": self._faults,
                **noted(self.run),
                RECORD: self.run.recipe.to_json(),
            },
            notes={METRICS: log.digest()},
            keep=self.settings.keep,
            planned=planned,
        )

    def _draw(self) -> None:
        with unseen(self.reporter):  # The first one is compiled.
            pixels = picture(self.state.generator.ema, self.run.recipe, self.dataset)
        save_png(preview_path(self.run.path, self.step), pixels)
        for tracker in self.trackers:
            tracker.image(self.step, "samples", pixels)


def _on_device(leaf: Any) -> Any:
    return jnp.array(leaf) if isinstance(leaf, np.ndarray) else leaf


def devices_for(samples: int, available: int) -> int:
    """The most devices of those available among which the samples divide evenly."""
    return max(count for count in range(1, available + 1) if samples % count == 0)
