"""Stage f: a teacher and its sCD student, trained for the time there is, and 10,000 samples of each.

The teacher's learning rate is constant and its weights are averaged in proportion to the steps, so that
it can be stopped at any time; from its speed follows how many steps the student has time for.
"""

import dataclasses
import math
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gpu_stages import images
from gpu_stages.worker import Context, Row
from scmkit import Run, compose, count_parameters, sample, train
from scmkit.composing.recipe import Recipe
from scmkit.data import Store
from scmkit.errors import Preempted
from scmkit.runs.convert import export
from scmkit.training.progress import describe

SAMPLES = 10_000

RESERVED = 90.0
"""Seconds at the end for compiling the samplers, drawing and writing."""

COMPILING = 30.0
"""Seconds, within a model's share, that pass before its first step."""

STUDENT_STEP = 1.9
"""A student's step in steps of its teacher, on the safe side: a pass of the teacher, a tangent and a
backward pass (1 + 2 + 2), over a forward and a backward one (1 + 2)."""

NETWORK: dict[str, Any] = {
    "unet.channels": 48,
    "unet.blocks": 2,
    "unet.embedding_dim": 96,
    "unet.head_dim": 48,
    "train.batch_size": 256,
    "train.on_nonfinite": "skip",
    "train.log_every": 100,
}
"""4 million parameters: what fits in a file of 16 MiB. Guessed, with what follows, from the settings that
serve a CPU."""

TEACHER: dict[str, Any] = {
    "train.steps": 1_000_000,  # more than there is time for
    "train.lr": 1e-3,
    "train.ema": "power:0.1",
    "train.warmup": 500,
    "log-normal.mean": -0.9,
    "log-normal.std": 1.3,
}
STUDENT: dict[str, Any] = {
    "train.lr": 2e-4,
    "train.schedule": "cosine",
    "train.beta2": 0.999,
    "train.ema": "power:0.05",
    "train.warmup": 100,
    "log-normal.mean": 0.0,
    "log-normal.std": 1.6,
}

TINY: dict[str, Any] = {
    "unet.channels": 8,
    "unet.blocks": 1,
    "unet.multipliers": (1,),
    "unet.embedding_dim": 16,
    "unet.head_dim": 8,
    "train.batch_size": 4,
    "train.log_every": 1,
}


class Until:
    """A reporter that stops training at a time as a signal would: after a checkpoint."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.stopped = False
        self.steps = 0

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def start(self, name: str, step: int, steps: int) -> None:
        self.steps = steps

    def advance(self, step: int, line: Mapping[str, Any] | None) -> None:
        if line is not None and step % 1000 == 0:
            self.message(f"{step}  {describe(line)}")
        # Once, and not behind the last step, when nobody waits for the signal any more.
        if step < self.steps and not self.stopped and time.monotonic() > self.deadline:
            self.stopped = True
            signal.raise_signal(signal.SIGTERM)

    def stop(self) -> None: ...


def rows(context: Context) -> Iterator[Row]:
    """A row for the teacher, one for the student, and one for each one's samples."""
    start = time.monotonic()
    end = start + context.limit - RESERVED
    with TemporaryDirectory() as folder:
        here = Path(folder)
        given = images.noise(here) if context.rehearse else context.data
        data = images.store(given, here)
        common = settings(data.shape) | (TINY if context.rehearse else {})
        source = str(data.path)

        until = Until(start if context.rehearse else start + 0.45 * (end - start))
        recipe = compose(["trigflow", "diffusion", "unet"], common | TEACHER, data=source)
        teacher = trained(recipe, here, "teacher", until)
        # With a constant rate this is what a run of so many steps is.
        kept = dataclasses.replace(teacher.recipe.train, steps=teacher.step)
        teacher.write_recipe(teacher.recipe.replace(train=kept))
        yield saved(teacher, "teacher", until, context)

        left = end - time.monotonic() - COMPILING
        rate = speed(teacher)
        steps = 2 if context.rehearse else max(200, int(left * rate / STUDENT_STEP))
        own = {"train.steps": steps, "scd.warmup_steps": steps}
        plugins = ["trigflow", "scd", "unet"]
        recipe = compose(plugins, common | STUDENT | own, data=source, teacher=teacher.path)
        until = Until(math.inf if context.rehearse else end)
        student = trained(recipe, here, "student", until)
        yield saved(student, "student", until, context)

        for name, run, sampler, evaluations in (
            ("student", student, "consistency", 1),
            ("teacher", teacher, "dpm-solver-pp", 18),
        ):
            yield drawn(run, name, data, sampler, evaluations, context)


def settings(shape: tuple[int, ...]) -> dict[str, Any]:
    """Of the network for images of 28x28 or 32x32; raises `ValueError` for others."""
    if shape[1:] not in ((28, 28), (32, 32)):
        raise ValueError(f"images of shape {shape}; give 28x28 or 32x32 ones")
    return NETWORK | {"unet.attention_resolutions": (shape[1] // 4,)}


def trained(recipe: Recipe, out: Path, name: str, until: Until) -> Run:
    """The run of a recipe, finished or stopped in time."""
    try:
        return train(recipe, out=out, name=name, reporter=until)
    except Preempted:
        return Run.load(out / name)


def speed(run: Run) -> float:
    """Steps per second, of the second half of what was logged."""
    logged = run.metrics or [{"steps_per_second": 1.0}]
    return statistics.median(line["steps_per_second"] for line in logged[len(logged) // 2 :])


def saved(run: Run, name: str, until: Until, context: Context) -> Row:
    """What became of a run; its averaged weights and its recipe are in a file."""
    export(run, context.out / f"{name}.safetensors")
    size = (context.out / f"{name}.safetensors").stat().st_size
    skipped = any(run.path.glob("nonfinite/*.json"))
    faults = ", with steps that were not finite and skipped" if skipped else ""
    ended = "stopped" if until.stopped else "finished"
    line = f"{name}: {ended} at step {run.step}, {speed(run):.1f} steps/s{faults}"
    return {
        "model": name,
        "steps": run.step,
        "stopped": until.stopped,
        "parameters": count_parameters(run.recipe),
        "bytes": size,
        "recipe": run.recipe.to_json(),
        "curves": run.metrics,
        "line": line,
    }


def drawn(run: Run, name: str, data: Store, sampler: str, steps: int, context: Context) -> Row:
    """Samples with the labels of training images, in files."""
    n = 16 if context.rehearse else SAMPLES
    labels = None
    if data.num_classes:
        picked = np.sort(np.random.default_rng(0).integers(0, data.size("train"), n))
        labels = data.read("train", picked)[1]
    start = time.perf_counter()
    x = sample(run.model, run.recipe.data, n, sampler, steps=steps, labels=labels)
    took = time.perf_counter() - start
    files = [path.name for path in images.save(context.out, name, x, labels)]
    line = f"{name}: {n} samples by {sampler}, {steps} steps, in {took:.1f} s: {', '.join(files)}"
    told = {"sampler": sampler, "steps": steps, "samples": n, "seconds": took, "files": files}
    return {"model": name, **told, "line": line}
