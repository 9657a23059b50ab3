"""The training loop: data in; checkpoints, metrics and pictures out."""

import contextlib
import math
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp

from scmkit.composing.build import Assembly, build_free
from scmkit.composing.datasets import dataset_of
from scmkit.data import Loader
from scmkit.distribution import processes, pulse
from scmkit.interfaces import AbstractTracker, Conditioning, Sample
from scmkit.plugin import Slot
from scmkit.runs import checkpoint
from scmkit.runs.metrics import METRICS, MetricsFile, metrics_file
from scmkit.runs.provenance import RECORD
from scmkit.runs.run import Run
from scmkit.runs.saver import Saver
from scmkit.sampling import save_png
from scmkit.training.agreement import Agreement
from scmkit.training.data_record import check_noted, noted
from scmkit.training.fixed import check_fixed, noted_fixed
from scmkit.training.freed import return_freed_memory
from scmkit.training.guard import IN_FLIGHT, Guard
from scmkit.training.guarded import Given, guarded
from scmkit.training.metric_means import Window
from scmkit.training.pace import Pace
from scmkit.training.packed import pack
from scmkit.training.placement import Placement
from scmkit.training.preview import collapsed, picture, preview_path
from scmkit.training.progress import Reporter, unseen
from scmkit.training.setup import Beginning, schedule_of, setting_of, step_of
from scmkit.training.signals import StopRequests
from scmkit.training.state import TrainState


class Trainer:
    """Trains a run to its end, from its newest checkpoint where it has one.

    The key of step `i` is derived from the seed and `i`, the batch from the seed and the loader's
    position: a run that was stopped and resumed is bit for bit the run that never stopped.

    `whole` is the run to resume where this one stops: for a teacher trained along the way, the run around it.
    """

    def __init__(
        self,
        run: Run,
        assembly: Assembly,
        reporter: Reporter,
        stop: StopRequests,
        *,
        whole: Path,
        mesh: str | None = None,
    ) -> None:
        recipe, settings = run.recipe, run.recipe.train
        self.run, self.settings, self.reporter = run, settings, reporter
        self.whole, self.placement = whole, Placement(settings, mesh)
        self.stop = Agreement(stop, self.placement.layout)
        self.dataset = dataset_of(recipe)
        noise = recipe.data.paired and assembly.coupling is not None
        self.loader = Loader(
            *(self.dataset, recipe.data, settings.batch_size, settings.seed),
            noise=noise,
            part=self.placement.layout.part,
        )
        self.schedule, self.stages = schedule_of(recipe), (0, *recipe.stages)
        self.step_fn = guarded(step_of(recipe, self.placement.hands))
        saved, setting = {}, setting_of(assembly)
        self.noted = noted_fixed(setting.fixed)
        before = Beginning(recipe, assembly, self.placement.layout)
        if run.step:
            latest = checkpoint.latest(run.checkpoints)
            saved = checkpoint.metadata(latest)
            check_noted(run, saved)
            check_fixed(recipe, self.noted, saved)
            placed: TrainState = checkpoint.restore(latest, before.shapes())
            self.loader.restore(saved["loader"])
        else:
            placed = before.state()
        setting = self.placement.placed(setting)
        self.packed, self.setting = pack(placed), pack(setting)
        self.step = int(placed.step)
        self.saver = Saver()
        self.guard = Guard(
            *(run, self.loader, setting, self.placement, self.saver, reporter),
            initial=before if settings.on_nonfinite == "rollback" else None,
            record=saved.get("faults"),
        )
        self.trackers: list[AbstractTracker] = [
            build_free(Slot.tracker, recipe.reference(n), recipe.plugins[n].config, run.path)
            for n in (recipe.trackers if processes.first() else ())
        ]
        self.window, self.pace = Window(saved.get("window")), Pace()
        self.varieties: list[float] = []

    @property
    def state(self) -> TrainState:
        """The state after the newest step."""
        return self.packed.tree

    def train(self) -> Path:
        """Run the loop; returns the path of the last picture.

        On Ctrl-C or SIGTERM saves, then raises `Interrupted` or `Preempted`; in the last step, when there is
        nothing left to stop, that is left to the caller. Raises `NonFiniteError` naming the step whose loss
        or gradient is not finite, where `train.on_nonfinite` or its limit says so; the last good checkpoint
        stays.
        """
        settings, stop = self.settings, self.stop
        # One thing that fails to close must not keep the others from flushing.
        with contextlib.ExitStack() as closing:
            pulse.resumable(self.whole)
            closing.callback(self.saver.wait)
            for tracker in self.trackers:
                closing.callback(tracker.close)
            log = metrics_file(self.run.path / "metrics.jsonl", self.step, whole=self.whole)
            closing.callback(log.close)
            closing.callback(self.reporter.stop)
            self.reporter.start(self.run.path.name, self.step, settings.steps)
            closing.enter_context(self.loader)
            while self.step < settings.steps:
                self._advance()
                last = self.step == settings.steps
                logged = last or self.step % settings.log_every == 0
                drawn = last or self._due(settings.sample_every)
                planned = last or self._due(settings.checkpoint_every)
                # Whatever is written here must not come of a fault that nobody has seen yet.
                written = logged or drawn or planned or stop.received is not None
                if not self._look(log, leave=0 if written else IN_FLIGHT):
                    continue
                stopped = stop.received is not None
                if stopped and not written and not self._look(log, leave=0):
                    continue
                if logged:
                    self._log(log)
                else:
                    self.reporter.advance(self.step, None)
                # Before the checkpoint, which promises that all before it is on disk.
                if drawn:
                    self._draw()
                if planned or stopped:
                    saved = self._save(log, planned=planned)
                    if stopped and not last:
                        self.saver.wait()
                        raise stop.error(
                            f"stopped at step {self.step}, saved to {saved}; "
                            f"continue with `scmkit resume {self.whole}`"
                        )
        return preview_path(self.run.path, self.step)

    def _due(self, every: int) -> bool:
        """Whether something happens now that happens every so many steps; for 0, four times a run."""
        return self.step % (every or math.ceil(self.settings.steps / 4)) == 0

    def _advance(self) -> None:
        """Dispatch one step on the next batch."""
        pulse.at(self.step)
        x0, labels = next(self.loader)
        rows = (x0, labels, self.loader.last_noise, self.loader.last_states)
        x0, labels, eps, states = cast(Any, self.placement.by_sample(rows))
        batch = Sample(x0, Conditioning(labels), eps, states)
        given = Given(self.setting, batch, self.guard.key, self.guard.hold, self.stop.wish())
        self.packed, metrics, hold = self.step_fn(given, self.packed)
        if self.pace.start():
            return_freed_memory()  # Of compiling the step.
        self.step += 1
        self.guard.dispatched(self.step, batch, metrics, hold)

    def _look(self, log: MetricsFile, *, leave: int) -> bool:
        """Take in the metrics of all steps but the newest `leave`; returns whether the newest one stands.

        After a fault training goes on from where the guard says, which may be an earlier step.
        """
        newest = self.step
        good, restart = self.guard.look(self.packed, leave=leave)
        for metrics in good:
            self.window.add(metrics)
            self.pace.count()
            self.stop.heard(cast(Any, metrics.stop))
        if restart is not None:
            self.packed = self.packed.holding(restart.state)
            self.step = int(restart.state.step)
            if restart.saved is None:
                self.window.skip()
                self.pace.count()
            else:
                self.window, self.pace = Window(restart.saved.get("window")), Pace()
                log.rewind(self.step)
        return self.step == newest

    def _updates(self) -> int:
        """The generator's updates since its stage began."""
        return self.step - max(start for start in self.stages if start < self.step)

    def _log(self, log: MetricsFile) -> None:
        rates = {
            "steps_per_second": self.pace.take(),
            "lr": float(jnp.asarray(self.schedule(self._updates() - 1))),
        }
        line = self.window.line(self.step) | rates
        self.window = Window()
        log.write(line)
        flat = {k: v for k, v in line.items() if isinstance(v, float)}
        for tracker in self.trackers:
            tracker.log(self.step, flat)
        self.reporter.advance(self.step, line)

    def _save(self, log: MetricsFile, *, planned: bool) -> Path:
        with self.pace.paused():
            log.sync()
            return self.saver.save(
                self.run.checkpoints,
                self.step,
                self.state,
                metadata={
                    "loader": self.loader.state(),
                    "window": self.window.state(),
                    "faults": self.guard.record,
                    **noted(self.run),
                    **self.noted,
                    RECORD: self.run.recipe.to_json(),
                },
                notes={METRICS: log.digest()},
                keep=self.settings.keep,
                planned=planned,
            )

    def _draw(self) -> None:
        # The first picture compiles the sampler.
        with self.pace.paused(), unseen(self.reporter):
            # Every process draws its part of the samples.
            model = self.placement.local(self.state.generator.ema)
            shown = picture(model, self.run.recipe, self.dataset)
            if not processes.first():
                return
            with pulse.apart():
                save_png(preview_path(self.run.path, self.step), shown.pixels)
                for tracker in self.trackers:
                    tracker.image(self.step, "samples", shown.pixels)
            return_freed_memory()
        if collapsed(shown.variety, self.varieties, last=self.step == self.settings.steps):
            self.reporter.message(
                f"step {self.step}: samples vary {shown.variety:.0%} as much as data: the model may have "
                f"collapsed; measure it with `scmkit eval {self.whole} --metric diversity`"
            )
        self.varieties.append(shown.variety)
