"""One training step by its shapes alone: a plugin that fails in it is named before hours of work."""

import re
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.extend.core import Var
from jaxtyping import Array, Float

from scmkit.composing.blame import blaming, misreturned
from scmkit.composing.build import build, build_model
from scmkit.composing.cast import GENERATOR, expect_gains
from scmkit.composing.conformity import checked, expect_array, expect_kind
from scmkit.composing.entries import Entry
from scmkit.composing.footprint import products
from scmkit.composing.recipe import Recipe
from scmkit.errors import PluginError, brief
from scmkit.interfaces import (
    AbstractBatchLoss,
    AbstractCoupling,
    AbstractGroupLoss,
    AbstractLoss,
    AbstractMemory,
    AbstractTangentEstimator,
    Conditioning,
    LossOutput,
    Point,
    Sample,
    Scene,
)
from scmkit.plugin import Slot
from scmkit.training.fixed import fixed_of, trained_of
from scmkit.training.objective import objective
from scmkit.training.setup import setting_of, state_before
from scmkit.training.step import scene_of
from scmkit.types import Key, Keys, Scalar

OWN_METRICS = ("step", "loss", "grad_norm", "lr", "skipped", "steps_per_second")
"""What a line of `metrics.jsonl` holds of every run."""

OWN_ENDS = ("/loss", "/grad_norm", "_by_noise")
"""How names end there that are made of those of players and metrics."""


def rehearse(recipe: Recipe, *, step: int = 0, teacher_step: int = 0) -> float:
    """Build a recipe and trace its loss and gradient, with the model as its own teacher.

    A teacher that is yet to be trained comes first. Returns the FLOPs that training takes from `step` on, and
    its teacher's from `teacher_step` on: those of matrix products and convolutions, nearly all there are.
    Raises `PluginError` naming plugin, package and version of what raises or returns something other than its
    interface says; what comes from no plugin is raised as it is.
    """
    before = 0.0
    if isinstance(recipe.teacher, Recipe):
        before = rehearse(recipe.teacher, step=teacher_step)
    updates = {GENERATOR: 1} | {name: player.updates for name, player in recipe.players.items()}
    with blaming([recipe.plugin(name)[0] for name in set(recipe.slots.values())]):
        owner, _, _ = recipe.plugin(recipe.slots[Slot.loss])
        expect_gains(owner, recipe.cast, recipe.train.steps)
        a_step = sum(n * _flops(recipe, owner, name) for name, n in updates.items())
    return before + max(0, recipe.train.steps - step) * recipe.train.accumulate * a_step


def _flops(recipe: Recipe, owner: Entry, name: str) -> float:
    """The FLOPs of one gradient of a player; raises `PluginError` where none reaches what it trains."""
    trace = eqx.filter_make_jaxpr(partial(_gradient, recipe, name))
    program, (gradients, _), _ = trace(jr.key(0))
    weights = len(jax.tree.leaves(gradients[0]))
    if weights and not any(_varies(program.jaxpr)[:weights]):
        raise PluginError(f"{owner}: no gradient of its {_loss_of(name)} reaches the model")
    return products(program.jaxpr)


def _varies(jaxpr: Any) -> list[bool]:
    """Which outputs of a jaxpr depend on its inputs, as a gradient that is 0 by the chain rule does not."""
    varying = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(isinstance(v, Var) and v in varying for v in equation.invars):
            varying.update(equation.outvars)
    return [isinstance(v, Var) and v in varying for v in jaxpr.outvars]


def _loss_of(player: str) -> str:
    return "loss" if player == GENERATOR else f"loss of player '{player}'"


class _CheckedTangent(AbstractTangentEstimator):
    """A tangent whose answers are held against its interface, wherever a loss asks for them."""

    inner: AbstractTangentEstimator

    def __call__(self, point: Point) -> Float[Array, "*shape"]:
        dx = self.inner(point)
        expect_array(self.inner, "tangent", dx, point.x_t.shape, point.x_t.dtype)
        return dx

    def advance(self, point: Point, r: Scalar) -> Point:
        there = self.inner.advance(point, r)
        expect_kind(self.inner, "tangent's advance", there, Point)
        expect_array(self.inner, "tangent's advance", there.x_t, point.x_t.shape, point.x_t.dtype)
        return there


class _CheckedLoss(AbstractLoss):
    """A loss whose answers are held against its interface."""

    inner: AbstractLoss
    what: str = eqx.field(static=True)

    def __call__(self, model: Any, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        return _held(self.inner, self.what, self.inner(model, scene, sample, key=key), ())


class _CheckedBatchLoss(AbstractBatchLoss):
    """The same for a loss on a batch."""

    inner: AbstractBatchLoss
    what: str = eqx.field(static=True)

    def __call__(self, model: Any, scene: Scene, batch: Sample, *, keys: Keys) -> LossOutput:
        out = self.inner(model, scene, batch, keys=keys)
        return _held(self.inner, self.what, out, keys.shape)


class _CheckedGroupLoss(AbstractGroupLoss):
    """The same for a loss on groups."""

    inner: AbstractGroupLoss
    what: str = eqx.field(static=True)

    @property
    def group(self) -> int:
        return self.inner.group

    def __call__(self, model: Any, scene: Scene, samples: Sample, *, key: Key) -> LossOutput:
        return _held(self.inner, self.what, self.inner(model, scene, samples, key=key), ())


CHECKED = {
    AbstractLoss: _CheckedLoss,
    AbstractBatchLoss: _CheckedBatchLoss,
    AbstractGroupLoss: _CheckedGroupLoss,
}


def _held(loss: Any, what: str, out: Any, shape: tuple[int, ...]) -> LossOutput:
    expect_kind(loss, what, out, LossOutput)
    expect_array(loss, what, out.value, shape, jnp.float32)
    expect_array(loss, f"{what} as 'ratio'", out.ratio, shape)
    expect_kind(loss, f"{what} as 'metrics'", out.metrics, dict)
    for name, value in out.metrics.items():
        _expect_metric_name(loss, what, name)
        expect_array(loss, f"{what} as '{name}'", value, shape)
    return out


def _expect_metric_name(loss: Any, what: str, name: Any) -> None:
    """Raises `PluginError` where a loss calls a metric what cannot stand in `metrics.jsonl`."""
    typed = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.\-/ ]+", name)
    if not typed or name in OWN_METRICS or name.endswith(OWN_ENDS):
        wanted = (
            "called with letters, digits, spaces and '_.-/', but neither "
            f"{', '.join(OWN_METRICS)} nor so that it ends in {', '.join(OWN_ENDS)}"
        )
        raise misreturned(loss, what, f"a metric called {brief(name)}", wanted)


def _hold_coupling(coupling: AbstractCoupling, batch: Sample, key: Key) -> Sample:
    """A coupling's answer, by its shapes, held against its interface."""
    out = eqx.filter_eval_shape(coupling, batch, key=key)
    expect_kind(coupling, "coupling", out, Sample)
    shape = batch.x0.shape
    for name, value in {"x0": out.x0, "eps": out.eps}.items():
        expect_array(coupling, f"coupling as '{name}'", value, shape, batch.x0.dtype)
    if batch.cond.label is not None:
        label = batch.cond.label
        expect_array(coupling, "coupling as 'cond.label'", out.cond.label, shape[:1], label.dtype)
    return out


def _hold_memory(memory: AbstractMemory, name: str, batch: Sample) -> None:
    """Raises `PluginError` where a memory has other arrays after a batch than before it, by their shapes."""
    after, what = (
        eqx.filter_eval_shape(lambda m, b: m.remember(b), memory, batch),
        f"memory '{name}'",
    )
    expect_kind(memory, what, after, type(memory))
    arrays, now = (jax.tree.leaves(eqx.filter(m, _has_shape)) for m in (memory, after))
    if len(arrays) != len(now):
        raise misreturned(memory, what, f"{len(now)} arrays", f"of the {len(arrays)} that it had")
    for old, new in zip(arrays, now, strict=True):
        expect_array(memory, what, new, old.shape, old.dtype)


def _has_shape(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _gradient(recipe: Recipe, name: str, key: Key) -> Any:
    """The gradient of one player over one (micro-)batch, every part of it held against its interface."""
    assembly = build(recipe, key=key, teacher=build_model(recipe, key=key))
    # By shapes, which cost nothing: a loss on a batch may ask for one that it can divide.
    n = recipe.train.batch_size // recipe.train.accumulate
    x0 = jnp.zeros((n, *recipe.data.shape), jnp.float32)
    cond = Conditioning(jnp.zeros(n, jnp.int32) if recipe.data.num_classes else None)
    batch = Sample(x0, cond)
    if assembly.coupling is not None:
        times = len(recipe.data.times)
        stored = jnp.zeros_like(x0) if recipe.data.paired else None
        states = jnp.zeros((n, times, *recipe.data.shape), jnp.float32) if times else None
        shapes = _hold_coupling(assembly.coupling, Sample(x0, cond, stored, states), key)
        batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    size = recipe.train.batch_size  # A memory is shown the whole of it.
    whole = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), batch)
    for one, memory in assembly.memories.items():
        _hold_memory(memory, one, whole)
    setting = setting_of(assembly)
    setting = eqx.tree_at(lambda s: s.tangent, setting, _CheckedTangent(setting.tangent))
    setting = checked(setting)
    scene = scene_of(setting, state_before(recipe, assembly), recipe.train.steps)
    modules = {GENERATOR: (assembly.model, assembly.loss), **assembly.players}
    module, loss = modules[name]
    held = next(CHECKED[kind] for kind in CHECKED if isinstance(loss, kind))
    module, loss = checked((module, held(loss, _loss_of(name))))
    trained, fixed = (module, trained_of(loss)), fixed_of(loss)
    return eqx.filter_grad(objective, has_aux=True)(trained, scene, batch, jr.split(key, n), fixed)
