"""Stage g: table one at a GPU's budget, a part for each method: its training, and what its samples score.

A card is lent for minutes and bare each time, so nothing passes from part to part but two files beside the
results: the teacher's weights, and the classifier in whose features all samples are compared, which no
second training on a GPU would repeat bit for bit. The first part, `diffusion`, writes both; later ones find
them there or beside the results of an earlier visit.
"""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpu_stages import images
from gpu_stages.plan import TABLE_STEPS
from gpu_stages.train import STUDENT, TEACHER, TINY, Until, settings, speed, trained
from gpu_stages.worker import Context, Row
from scmkit import Run, count_parameters
from scmkit.data import Store
from scmkit.data.derived import digest, directory_of
from scmkit.reporting.cost import duration, training_seconds
from scmkit.reporting.trials import PRESETS, USUAL, Cell, Plan, Result
from scmkit.reporting.trials.measuring import measured
from scmkit.runs.convert import export, restore_exported

DIFFUSION = "diffusion"

WEIGHTS = "table-teacher.safetensors"

CLASSIFIER = "classifier-*.safetensors"
"""The name that `scmkit.data.derived` finds it by."""

BATCH = 128

SAMPLING_SEEDS = 4

TRAINING: dict[str, dict[str, Any]] = {
    DIFFUSION: TEACHER | {"train.warmup": 200},
    "consistency": STUDENT,
}
"""By kind of model, what a data set would recommend: stage f's. Other kinds have their methods' own."""


def rows(context: Context, method: str) -> Iterator[Row]:
    """One row: the result of a method, as `scmkit bench` has it, and under which budget."""
    first = method == DIFFUSION
    with TemporaryDirectory() as folder:
        here = Path(folder)
        given = images.noise(here) if context.rehearse else context.data
        data = _store(given, here)
        common = budget(data, context.rehearse)
        cell = Cell(str(data.path), f"trigflow,{method}", 0)
        plan = _with_training(common, cell, context.rehearse)
        recipe = plan.recipe(cell)
        weights = context.out / WEIGHTS if first else _weights(context)
        if not first:
            teacher = _brought(weights, data, here)
            if teacher.recipe.data.digest != recipe.data.digest:
                raise ValueError(
                    f"{weights} is of other data; give the same --data, or another --skip"
                )
            if recipe.teacher is not None:
                recipe = plan.recipe(cell, teacher.path)
        run = trained(recipe, here, method, Until(math.inf))
        found = Result(
            cell,
            tuple(measured(plan, cell, run, _say, baselines=first)),
            count_parameters(run.recipe),
            training_seconds(run),
            None if run.recipe.teacher is None else DIFFUSION,
        )
        if first:
            export(run, weights)
            for file in directory_of(data).glob(CLASSIFIER):
                shutil.copy(file, context.out / file.name)
        name = Path(given or images.FASHION_MNIST).name
        yield {
            "method": method,
            "result": json.loads(json.dumps(asdict(found), default=sorted)),
            "steps": run.step,
            "plan": asdict(replace(common, methods=(), data=())),
            "data": {"name": name, "shape": data.shape, "digest": digest(data)},
            "teacher": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "recipe": run.recipe.to_json(),
            "curves": run.metrics,
            "line": _line(method, run, found),
        }


def budget(data: Store, rehearse: bool) -> Plan:
    """Table one on images, without its methods: one network, as many steps for each, and one seed."""
    common = settings(data.shape) | {"train.schedule": "cosine", "cmt.steps": 4}
    # A run that ends with its part is neither resumed nor looked at.
    common |= {"train.checkpoint_every": TABLE_STEPS, "train.sample_every": TABLE_STEPS}
    plan = replace(
        PRESETS["one"],
        data=(str(data.path),),
        seeds=1,
        steps=TABLE_STEPS,
        batch_size=BATCH,
        settings=common,
        sampling_seeds=SAMPLING_SEEDS,
        curve=USUAL,
    )
    if rehearse:
        tiny = {**common, **TINY, "train.checkpoint_every": 2, "train.sample_every": 2}
        return replace(plan, settings=tiny, steps=2, batch_size=4, sampling_seeds=1, curve=(1, 2))
    return plan


def _with_training(plan: Plan, cell: Cell, rehearse: bool) -> Plan:
    """The plan with what suits the kind of model that a method makes."""
    own = {} if rehearse else TRAINING.get(plan.recipe(cell).makes, {})
    return replace(plan, settings={**plan.settings, **own})


def _store(given: str | None, here: Path) -> Store:
    """The images in a store that is the part's own: what is derived from them is kept in it."""
    data = images.store(given, here)
    if data.path.is_relative_to(here):
        return data
    ignored = shutil.ignore_patterns("derived")
    return Store(Path(shutil.copytree(data.path, here / "images.store", ignore=ignored)))


def _weights(context: Context) -> Path:
    """Where the teacher's are, of this visit or the newest before. Raises `FileNotFoundError`."""
    folders = [context.out, *map(Path, reversed(context.earlier))]
    for folder in folders:
        if (folder / WEIGHTS).is_file():
            return folder / WEIGHTS
    looked = ", ".join(map(str, folders))
    raise FileNotFoundError(
        f"no {WEIGHTS} in {looked}; leave it beside the results.json of the visit that trained it"
    )


def _brought(weights: Path, data: Store, here: Path) -> Run:
    """The teacher, with the classifier beside it put where measuring looks for it."""
    for file in weights.parent.glob(CLASSIFIER):
        shutil.copy(file, directory_of(data) / file.name)
    return restore_exported(weights, here / "teacher")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _line(method: str, run: Run, found: Result) -> str:
    name = next(iter(found.rows[-1].metrics))
    values = [f"{row.metrics[name]:.4g} at {row.nfe:g}" for row in found.rows if row.nfe]
    took = f"{run.step} steps in {duration(found.seconds)}, {speed(run):.1f} steps/s"
    return f"{method}: {took}; {name} {', '.join(values)}"
