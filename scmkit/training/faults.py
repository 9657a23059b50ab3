"""Faulty steps: what was not finite, for which samples, and enough saved to see it again."""

import json
import math
from dataclasses import dataclass
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
from scmkit.composing.compose import dataset_of
from scmkit.errors import RunError
from scmkit.interfaces import AbstractTangentEstimator, Conditioning
from scmkit.runs import checkpoint
from scmkit.runs.run import Run
from scmkit.storage.files import write_text
from scmkit.training.optimizer import build_optimizer
from scmkit.training.state import TrainState, initial_state, trainable
from scmkit.training.step import Batch
from scmkit.types import Key, Scalar

FOLDER = "nonfinite"
"""Where in a run faulty steps are: `STEP/`, the state before the step, and `STEP.json`, the report."""

KEPT = 2
"""States of faulty steps that are kept; reports all are."""


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

    def __call__(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        dx = self.inner(x0, eps, x_t, t, cond)
        self.notes.seen.append((x_t, t, cond, dx))
        return dx

    def advance(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        r: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        return self.inner.advance(x0, eps, x_t, t, r, cond)


@eqx.filter_jit
def _examine(
    state: TrainState, tangent: AbstractTangentEstimator, batch: Batch, key: Key, probed: bool
) -> tuple[Array, Array, dict[str, Array]]:
    """Time, ratio and parts of every sample, one after the other, from the keys of the step itself.

    With a probe also the parts `network`, `tangent` and `df/dt`, where the loss asks for its tangent
    outside of all transformations; raises `UnexpectedTracerError` where it does so within one.
    """
    model, loss = state.generator.model, state.generator.loss
    keys = jr.split(jr.fold_in(key, state.step), batch.x0.shape[0])

    def one(given: tuple[Array, Conditioning | None, Key]) -> tuple[Array, Array, dict[str, Array]]:
        x0, cond, key = given
        notes = _Notes()
        asked = _Probe(tangent, notes) if probed else tangent
        out = loss(model, asked, x0, cond, step=state.step, key=key)

        def value(trained: Any) -> Scalar:
            return trained[1](trained[0], tangent, x0, cond, step=state.step, key=key).value

        grads = eqx.filter_grad(value)((model, loss))
        t = model.process.time_at(out.ratio)
        parts = {"data": x0}
        if notes.seen:
            x_t, t, told, dx = notes.seen[0]
            F = model.raw(x_t, t, told)
            _, df = jax.jvp(
                lambda x, t: model.denoise(x, t, told), (x_t, t), (dx, jnp.ones_like(t))
            )
            parts |= {"network": F, "tangent": dx, "df/dt": df}
        parts |= out.metrics | {"loss": out.value, "gradient": optax.tree.norm(grads)}
        return t, out.ratio, {n: jnp.max(jnp.abs(p)).astype(jnp.float32) for n, p in parts.items()}

    t, ratio, parts = jax.lax.map(one, (batch.x0, batch.cond, keys))
    weights = jax.tree.leaves(trainable(model))
    parts["weights"] = jnp.broadcast_to(
        jnp.max(jnp.stack([jnp.max(jnp.abs(w)).astype(jnp.float32) for w in weights])), t.shape
    )
    return t, ratio, parts


def _fault(
    record: dict[str, Any],
    state: TrainState,
    tangent: AbstractTangentEstimator,
    batch: Batch,
    key: Key,
) -> Fault:
    try:
        examined = _examine(state, tangent, batch, key, True)
    except jax.errors.UnexpectedTracerError:
        examined = _examine(state, tangent, batch, key, False)
    t, ratio, parts = jax.device_get(examined)
    label = None if batch.cond is None else batch.cond.label
    labels = None if label is None else np.asarray(label)
    samples = tuple(
        {
            "index": index,
            "label": None if labels is None else int(labels[i]),
            "time": float(t[i]),
            "ratio": float(ratio[i]),
            "parts": {name: float(values[i]) for name, values in parts.items()},
        }
        for i, index in enumerate(record["indices"])
    )
    loss, norm = float(record["loss"]), float(record["grad_norm"])
    return Fault(record["step"], loss, norm, samples)


def save_fault(
    run: Path,
    record: dict[str, Any],
    state: TrainState,
    tangent: AbstractTangentEstimator,
    batch: Batch,
    key: Key,
) -> tuple[Fault, Path]:
    """Write the state before a faulty step and the report; returns the fault and the report's path.

    `record` has `step`, `loss` and `grad_norm` (as text: JSON has no NaN), `indices` and `rollbacks`.
    Raises `CheckpointError` or `RunError` if it cannot be written.
    """
    folder = run / FOLDER
    checkpoint.save(folder, record["step"], state, metadata=record, keep=KEPT)
    fault = _fault(record, state, tangent, batch, key)
    shown = [
        sample
        | {name: repr(sample[name]) for name in ("time", "ratio")}
        | {"parts": {name: repr(value) for name, value in sample["parts"].items()}}
        for sample in fault.samples
    ]
    report = folder / f"{record['step']:08d}.json"
    write_text(report, json.dumps(record | {"samples": shown}, indent=1) + "\n")
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
    optimizer = build_optimizer(settings, settings.steps)
    like = eqx.filter_eval_shape(initial_state, assembly.model, assembly.loss, optimizer)
    x0, labels = dataset_of(recipe).read("train", np.asarray(record["indices"]))
    cond = None if labels is None else Conditioning(jnp.asarray(np.asarray(labels, np.int32)))
    batch = Batch(jnp.asarray(np.asarray(recipe.data.normalise(x0), np.float32)), cond)
    key = step_key(settings.seed, record["rollbacks"])
    return _fault(record, checkpoint.restore(saved, like), assembly.tangent, batch, key)
