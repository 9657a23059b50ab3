"""Faulty steps: what was not finite, for which samples, and enough saved to see it again."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float

from scmkit.composing.blame import blaming
from scmkit.composing.build import build, named_key
from scmkit.composing.datasets import dataset_of
from scmkit.composing.recipe import Recipe
from scmkit.errors import RunError
from scmkit.interfaces import (
    AbstractLoss,
    AbstractTangentEstimator,
    AnyLoss,
    Conditioning,
    Point,
    Sample,
    Scene,
)
from scmkit.runs import checkpoint
from scmkit.runs.run import Run
from scmkit.storage.files import write_text
from scmkit.training.fixed import whole
from scmkit.training.objective import Trained, losses
from scmkit.training.setup import setting_of, state_before, step_of
from scmkit.training.state import TrainState, trainable
from scmkit.training.step import Setting, scene_of
from scmkit.types import Key, Keys, Scalar

FOLDER = "nonfinite"
"""Where in a run faulty steps are: `STEP/`, the state before the step, and `STEP.json`, the report."""

KEPT = 2
"""States of faulty steps that are kept; reports all are."""


_WORDS = {"loss": "loss", "grad_norm": "gradient norm"}


@dataclass(frozen=True)
class Fault:
    """A step whose loss or gradient was not finite.

    Each of `samples` has `index` (in the train split), `label`, `time`, `ratio` (`sigma / alpha`) and
    `parts`, the largest absolute value of each part of its loss: infinite or NaN where the fault is.
    """

    step: int
    loss: float
    grad_norm: float
    samples: tuple[dict[str, Any], ...]
    turns: Mapping[str, tuple[float, ...]]
    """`NAME/loss` and `NAME/grad_norm` of each turn of every player beside the generator."""

    @property
    def cause(self) -> str:
        """The first loss or gradient norm that was not finite, such as `loss of player 'fake' is nan`."""
        for name, values in self.turns.items():
            player, _, what = name.rpartition("/")
            for value in values:
                if not math.isfinite(value):
                    return f"{_WORDS[what]} of player '{player}' is {value}"
        what = "grad_norm" if math.isfinite(self.loss) else "loss"
        return f"{_WORDS[what]} is {getattr(self, what)}"

    @property
    def culprits(self) -> tuple[dict[str, Any], ...]:
        """The samples of which some part is not finite."""
        return tuple(s for s in self.samples if not all(map(math.isfinite, s["parts"].values())))


class _Notes:
    """What a probe saw. Hashed by identity: a loss may pass its tangent through a jit of its own."""

    def __init__(self) -> None:
        self.seen: list[Any] = []


class _Probe(AbstractTangentEstimator):
    """A tangent that notes where it was asked for: the noisy sample and time a loss drew for itself."""

    inner: AbstractTangentEstimator
    notes: _Notes = eqx.field(static=True)

    def __call__(self, point: Point) -> Float[Array, "*shape"]:
        dx = self.inner(point)
        self.notes.seen.append((point, dx))
        return dx

    def advance(self, point: Point, r: Scalar) -> Point:
        return self.inner.advance(point, r)


@eqx.filter_jit
def _examine(
    scene: Scene,
    trained: Trained,
    fixed: AnyLoss | None,
    batch: Sample,
    keys: Keys,
    probed: bool,
) -> tuple[Array, Array, dict[str, Array]]:
    """Time, ratio and parts of every sample, from the keys of the step itself.

    With a probe also the parts `network`, `tangent` and `df/dt`, where the loss asks for its tangent
    outside of all transformations; raises `UnexpectedTracerError` where it does so within one.
    """
    model, loss = trained[0], whole(trained[1], fixed)
    if not isinstance(loss, AbstractLoss):  # It looks at samples only together.
        out = losses((model, loss), scene, batch, keys)
        t = jax.vmap(model.process.time_at)(out.ratio)
        parts = {"data": batch.x0, **out.metrics, "loss": out.value}
        return t, out.ratio, {n: jax.vmap(_largest)(p) for n, p in parts.items()}

    def one(given: tuple[Sample, Key]) -> tuple[Array, Array, dict[str, Array]]:
        sample, key = given
        notes = _Notes()
        tangent = _Probe(scene.tangent, notes) if probed else scene.tangent
        out = loss(model, replace(scene, tangent=tangent), sample, key=key)

        def value(own: Any) -> Scalar:
            return whole(own[1], fixed)(own[0], scene, sample, key=key).value

        grads = eqx.filter_grad(value)(trained)
        t = model.process.time_at(out.ratio)
        parts = {"data": sample.x0}
        if notes.seen:
            at, dx = notes.seen[0]
            t = at.t
            F = model.raw(at.x_t, t, at.cond)
            _, df = jax.jvp(
                lambda x, t: model.denoise(x, t, at.cond), (at.x_t, t), (dx, jnp.ones_like(t))
            )
            parts |= {"network": F, "tangent": dx, "df/dt": df}
        parts |= out.metrics | {"loss": out.value, "gradient": optax.tree.norm(grads)}
        return t, out.ratio, {name: _largest(part) for name, part in parts.items()}

    return jax.lax.map(one, (batch, keys))


def _largest(part: Array) -> Array:
    return jnp.max(jnp.abs(part)).astype(jnp.float32)


def _fault(
    record: dict[str, Any],
    recipe: Recipe,
    state: TrainState,
    setting: Setting,
    batch: Sample,
    key: Key,
) -> Fault:
    step = step_of(recipe)
    batch, state, told, keys = eqx.filter_jit(step.begin)(setting, batch, key, state)
    scene, player = scene_of(setting, state, step.steps), state.generator
    fixed = setting.fixed.get("generator")
    given = (scene, (player.model, player.loss), fixed, batch, keys)
    try:
        examined = _examine(*given, True)
    except jax.errors.UnexpectedTracerError:
        examined = _examine(*given, False)
    t, ratio, parts = jax.device_get(examined)
    weights = max(float(_largest(w)) for w in jax.tree.leaves(trainable(player.model)))
    label = batch.cond.label
    labels = None if label is None else np.asarray(label)
    samples = tuple(
        {
            "index": index,
            "label": None if labels is None else int(labels[i]),
            "time": float(t[i]),
            "ratio": float(ratio[i]),
            "parts": {name: float(values[i]) for name, values in parts.items()}
            | {"weights": weights},
        }
        for i, index in enumerate(record["indices"])
    )
    turns = {name: tuple(map(float, values)) for name, values in told.items()}
    loss, norm = float(record["loss"]), float(record["grad_norm"])
    return Fault(record["step"], loss, norm, samples, turns)


def save_state(run: Run, record: dict[str, Any], state: TrainState) -> None:
    """Write the state before a faulty step; every process takes part.

    `record` has `step`, `loss` and `grad_norm` (as text: JSON has no NaN), `indices` and `rollbacks`.
    Raises `CheckpointError` if it cannot be written.
    """
    checkpoint.save(run.path / FOLDER, record["step"], state, metadata=record, keep=KEPT)


def report_path(run: Run, step: int) -> Path:
    """Where the report of a faulty step goes."""
    return run.path / FOLDER / f"{step:08d}.json"


def save_fault(
    run: Run,
    record: dict[str, Any],
    state: TrainState,
    setting: Setting,
    batch: Sample,
    key: Key,
) -> tuple[Fault, Path]:
    """Write the report of a faulty step whose state was saved; returns the fault and the report's path.

    `record` is as for `save_state`. Raises `RunError` if it cannot be written.
    """
    fault = _fault(record, run.recipe, state, setting, batch, key)
    shown = [
        sample
        | {name: repr(sample[name]) for name in ("time", "ratio")}
        | {"parts": {name: repr(value) for name, value in sample["parts"].items()}}
        for sample in fault.samples
    ]
    turns = {name: [repr(value) for value in values] for name, values in fault.turns.items()}
    report = report_path(run, record["step"])
    write_text(report, json.dumps(record | {"turns": turns, "samples": shown}, indent=1) + "\n")
    return fault, report


def step_key(seed: int, rollbacks: int) -> Key:
    """The key from which the steps of a run draw: another one after each rollback."""
    key = named_key(jr.key(seed), "train")
    return jr.fold_in(key, rollbacks) if rollbacks else key


@blaming()
def replay(path: str | Path, step: int | None = None) -> Fault:
    """Evaluate the batch of a faulty step again, with the state and keys it had.

    `step` is the newest by default. Raises `RunError` if the run has saved no such step.
    """
    run = Run.load(path)
    folder = run.path / FOLDER
    known = checkpoint.steps(folder)
    if not known or (step is not None and step not in known):
        which = f"faulty step {step}" if step is not None else "faulty step"
        held = f"it has {', '.join(map(str, known))}" if known else "it never met one"
        raise RunError(f"run '{path}' holds no {which} to replay; {held}")
    saved = folder / f"{step or known[-1]:08d}"
    record = checkpoint.metadata(saved)
    recipe, settings = run.recipe, run.recipe.train
    teacher = None if run.teacher is None else Run.load(run.teacher).read_model()
    assembly = build(recipe, key=named_key(jr.key(settings.seed), "init"), teacher=teacher)
    like = eqx.filter_eval_shape(state_before, recipe, assembly)
    dataset, indices = dataset_of(recipe), np.asarray(record["indices"])
    x0, labels = dataset.read("train", indices)
    paired = recipe.data.paired and assembly.coupling is not None
    eps = jnp.asarray(dataset.noise(indices)) if paired else None
    cond = Conditioning(None if labels is None else jnp.asarray(np.asarray(labels, np.int32)))
    states = dataset.states(indices) if paired and dataset.times else None
    if states is not None:
        states = jnp.asarray(np.asarray(recipe.data.normalize(states), np.float32))
    x0 = jnp.asarray(np.asarray(recipe.data.normalize(x0), np.float32))
    batch = Sample(x0, cond, eps, states)
    key = step_key(settings.seed, record["rollbacks"])
    state = checkpoint.restore(saved, like)
    return _fault(record, recipe, state, setting_of(assembly), batch, key)
