"""The training loop: data in; checkpoints, metrics and pictures out."""

import math
from collections import deque
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scmkit.assembly import Assembly, build_free, named_key
from scmkit.composition import dataset_of
from scmkit.data import Loader
from scmkit.errors import NonFiniteError
from scmkit.interfaces import AbstractTracker, Conditioning
from scmkit.plugin import Slot
from scmkit.sampling import save_png
from scmkit.training import checkpoint
from scmkit.training.ema import parse_ema
from scmkit.training.metrics_file import MetricsFile
from scmkit.training.optimizer import build_optimizer, learning_rate
from scmkit.training.preview import picture, preview_path
from scmkit.training.progress import Reporter
from scmkit.training.run import Run
from scmkit.training.signals import StopRequests
from scmkit.training.state import TrainState, initial_state
from scmkit.training.step import Batch, StepMetrics, make_step
from scmkit.training.window import Window

IN_FLIGHT = 2
"""Steps dispatched ahead of the one whose loss is being looked at."""


class Trainer:
    """Trains a run to its end, from its newest checkpoint where it has one.

    The key of step `i` is derived from the seed and `i`, the batch from the seed and the loader's
    position: a run that was stopped and resumed is bit for bit the run that never stopped.
    """

    def __init__(self, run: Run, assembly: Assembly, reporter: Reporter, *, name: str) -> None:
        recipe, settings = run.recipe, run.recipe.train
        self.run, self.settings, self.reporter, self.name = run, settings, reporter, name
        self.dataset = dataset_of(recipe)
        self.loader = Loader(self.dataset, recipe.data, settings.batch_size, settings.seed)
        self.schedule = learning_rate(settings, settings.steps)
        optimizer = build_optimizer(settings, settings.steps)
        self.step_fn = make_step(
            optimizer, parse_ema(settings.ema, settings.batch_size), accumulate=settings.accumulate
        )
        state = initial_state(assembly.model, assembly.loss, optimizer)
        saved = {}
        if run.step:
            latest = checkpoint.latest(run.checkpoints)
            state, saved = checkpoint.restore(latest, state), checkpoint.metadata(latest)
            self.loader.restore(saved["loader"])
        everywhere, self.by_sample = _shardings(settings.batch_size // settings.accumulate)
        self.state: TrainState = eqx.filter_shard(state, everywhere)
        self.tangent = eqx.filter_shard(assembly.tangent, everywhere)
        self.key = named_key(jr.key(settings.seed), "train")
        self.step = int(self.state.step)
        self.trackers: list[AbstractTracker] = [
            build_free(Slot.tracker, recipe.reference(n), recipe.plugins[n].config, run.path)
            for n in recipe.trackers
        ]
        self._unchecked: deque[tuple[int, StepMetrics]] = deque()
        self._window = Window(saved.get("window"))

    def train(self) -> Path:
        """Run the loop; returns the path of the last picture.

        Saves, then raises `Interrupted` or `Preempted`, on Ctrl-C or SIGTERM. Raises `NonFiniteError`
        naming the first step whose loss is not finite; the last good checkpoint stays.
        """
        settings = self.settings
        log = MetricsFile(self.run.path / "metrics.jsonl", self.step)
        self.reporter.start(self.name, self.step, settings.steps)
        try:
            with self.loader, StopRequests() as stop:
                while self.step < settings.steps:
                    self._advance()
                    last = self.step == settings.steps
                    if last or self.step % settings.log_every == 0:
                        self._log(log)
                    else:
                        self.reporter.advance(self.step, None)
                    stopped = stop.received is not None
                    # Before the checkpoint, which promises that all before it is on disk.
                    if last or self._due(settings.sample_every):
                        self._draw()
                    if last or stopped or self._due(settings.checkpoint_every):
                        log.sync()
                        saved = self._save()
                        if stopped and not last:
                            raise stop.error(
                                f"stopped at step {self.step}, saved to {saved}; "
                                f"continue with `scmkit resume {self.run.path}`"
                            )
        finally:
            self.reporter.stop()
            log.close()
            for tracker in self.trackers:
                tracker.close()
        return preview_path(self.run.path, self.step)

    def _due(self, every: int) -> bool:
        """Whether something happens now that happens `every` steps; for 0, four times a run."""
        return self.step % (every or math.ceil(self.settings.steps / 4)) == 0

    def _advance(self) -> None:
        x0, labels = next(self.loader)
        cond = None if labels is None else Conditioning(jnp.asarray(labels))
        x0, cond = jax.device_put((jnp.asarray(x0), cond), self.by_sample)
        self.state, metrics = self.step_fn((self.tangent, Batch(x0, cond), self.key), self.state)
        self.step += 1
        self._unchecked.append((self.step, metrics))
        self._check(leave=IN_FLIGHT)

    def _check(self, *, leave: int) -> None:
        """Look at the oldest losses, so that the first bad step is named and never saved."""
        while len(self._unchecked) > leave:
            step, metrics = self._unchecked.popleft()
            metrics = jax.device_get(metrics)
            loss = float(metrics.means["loss"])
            if not math.isfinite(loss):
                known = checkpoint.steps(self.run.checkpoints)
                kept = (
                    f"the last good checkpoint is step {known[-1]}"
                    if known
                    else "nothing was saved yet"
                )
                raise NonFiniteError(
                    f"{self.name}: the loss is {loss} at step {step}; {kept} in {self.run.path}. "
                    "Lower --lr, set train.clip, or lengthen the warmup"
                )
            self._window.add(metrics)

    def _log(self, log: MetricsFile) -> None:
        self._check(leave=0)
        line = self._window.line(self.step) | {
            "lr": float(jnp.asarray(self.schedule(self.step - 1)))
        }
        self._window = Window()
        log.write(line)
        flat = {k: v for k, v in line.items() if isinstance(v, float)}
        for tracker in self.trackers:
            tracker.log(self.step, flat)
        self.reporter.advance(self.step, line)

    def _save(self) -> Path:
        self._check(leave=0)
        return checkpoint.save(
            self.run.checkpoints,
            self.step,
            self.state,
            metadata={"loader": self.loader.state(), "window": self._window.state()},
            keep=self.settings.keep,
        )

    def _draw(self) -> None:
        self._check(leave=0)
        pixels = picture(self.state.generator.ema, self.run.recipe, self.dataset)
        save_png(preview_path(self.run.path, self.step), pixels)
        for tracker in self.trackers:
            tracker.image(self.step, "samples", pixels)


def _shardings(samples: int) -> tuple[NamedSharding, NamedSharding]:
    """Weights on every local device, samples split among them where their number divides."""
    devices = jax.local_devices()
    count = len(devices) if samples % len(devices) == 0 else 1
    mesh = jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=devices[:count])
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
