"""One optimizer step of all players, for every combination of model, tangent and loss."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from scmkit.interfaces import (
    AbstractCoupling,
    AbstractEMA,
    AbstractModel,
    AbstractProposal,
    AbstractTangentEstimator,
    Sample,
    Scene,
    constrain,
)
from scmkit.training.objective import objective
from scmkit.training.state import Player, TrainState, trainable
from scmkit.types import Key, Keys, Scalar

NOISE_BINS = (0.1, 0.5, 2.0)
"""Edges, in noise-to-signal ratio, of the bins by which metrics are logged."""


class Setting(eqx.Module):
    """What every step of a training is given and none changes."""

    proposal: AbstractProposal
    tangent: AbstractTangentEstimator
    teacher: AbstractModel | None = None
    coupling: AbstractCoupling | None = None


class StepMetrics(eqx.Module):
    """The metrics of one step: means, and sums and counts by noise bin.

    `hold` says that the state stayed as it was: a loss or gradient norm of this step, or of one before it,
    was not finite.
    """

    means: dict[str, Scalar]
    sums: dict[str, Float[Array, " bins"]]
    counts: Float[Array, " bins"]
    hold: Bool[Array, ""]


@dataclass(frozen=True)
class Rules:
    """How one player is updated.

    **Attributes:**

    - `optimizer`, `ema`: of the player.
    - `updates`: its updates before each of the generator's (the generator itself has one).
    - `followers`: for each lagging copy its profile, and whether it follows the `"model"` or the `"ema"`.
    - `restarts`: the generator's steps at which the optimizer begins anew.
    - `accumulate`: micro-batches whose gradients are averaged.
    """

    optimizer: optax.GradientTransformation
    ema: AbstractEMA
    updates: int = 1
    followers: Mapping[str, tuple[AbstractEMA, str]] = field(default_factory=dict)
    restarts: tuple[int, ...] = ()
    accumulate: int = 1


Given = tuple[Setting, Sample, Key, Bool[Array, ""]]
Step = Callable[[Given, TrainState], tuple[TrainState, StepMetrics]]


def make_step(rules: Mapping[str, Rules], steps: int) -> Step:
    """The compiled training step `((setting, batch, key, hold), state) -> (state, metrics)`.

    It donates `state`. Each player's model and its loss's own arrays are trained together under one
    `eqx.filter_value_and_grad`. The players other than the generator have their turns first, each `updates`
    times with keys of its own; sample `i` of the generator's step `n` draws from
    `split(fold_in(key, n))[i]`. Where `hold`, and where any player's loss or gradient norm is not finite, the
    state comes back unchanged. `steps` is the length of the training.
    """
    others = {name: its for name, its in rules.items() if name != "generator"}
    own = rules["generator"]

    def step(given: Given, state: TrainState) -> tuple[TrainState, StepMetrics]:
        setting, batch, key, hold = given
        key = jr.fold_in(key, state.step)
        if setting.coupling is not None:
            batch = setting.coupling(batch, key=jr.fold_in(key, zlib.crc32(b"coupling")))
        before = state
        state, told = take_turns(others, setting, batch, key, state, steps)
        for values in told.values():
            hold = hold | ~jnp.all(jnp.isfinite(values))
        keys = jr.split(key, batch.x0.shape[0])
        (value, (metrics, ratio)), grads = _gradient(
            "generator", own, setting, batch, keys, state, steps
        )
        norm = optax.tree.norm(grads)
        hold = hold | ~(jnp.isfinite(value) & jnp.isfinite(norm))

        def advance(state: TrainState) -> TrainState:
            count = state.step + 1
            moved = _updated(own, state.generator, grads, count, state.step)
            return TrainState(count, state.players | {"generator": moved})

        # On the device: the loop looks at a step only after it has dispatched the next ones.
        if others:
            after = _selected(hold, before, advance(state))
        else:
            after = _unless(hold, advance, state)
        means = {"loss": value, "grad_norm": norm} | {n: jnp.mean(v) for n, v in told.items()}
        return after, _metrics(means, metrics, ratio, hold)

    return eqx.filter_jit(step, donate="all-except-first")


def take_turns(
    others: Mapping[str, Rules],
    setting: Setting,
    batch: Sample,
    key: Key,
    state: TrainState,
    steps: int,
) -> tuple[TrainState, dict[str, Float[Array, " updates"]]]:
    """The state after the turns of the players beside the generator, and the loss and gradient norm of each
    turn, as `NAME/loss` and `NAME/grad_norm`. `key` is that of the step."""
    told = {}
    for name, rules in others.items():
        turns = jr.split(jr.fold_in(key, zlib.crc32(name.encode())), rules.updates)
        state, values, norms = _turns(name, rules, setting, batch, turns, state, steps)
        told |= {f"{name}/loss": values, f"{name}/grad_norm": norms}
    return state, told


def scene_of(setting: Setting, state: TrainState, steps: int) -> Scene:
    """What losses see of a state, in a training of `steps`."""
    return Scene(
        step=state.step,
        progress=state.step.astype(jnp.float32) / steps,
        proposal=setting.proposal,
        tangent=setting.tangent,
        teacher=setting.teacher,
        models={name: player.model for name, player in state.players.items()},
        followers={n: f for p in state.players.values() for n, f in p.followers.items()},
    )


def _turns(
    name: str,
    rules: Rules,
    setting: Setting,
    batch: Sample,
    turns: Keys,
    state: TrainState,
    steps: int,
) -> tuple[TrainState, Float[Array, " updates"], Float[Array, " updates"]]:
    """All updates of one player before the generator's, and their losses and gradient norms."""
    arrays, rest = eqx.partition(state, eqx.is_array)

    def turn(carry: tuple[PyTree, Int[Array, ""]], key: Key) -> Any:
        state, done = eqx.combine(carry[0], rest), carry[1]
        keys = jr.split(key, batch.x0.shape[0])
        (value, _), grads = _gradient(name, rules, setting, batch, keys, state, steps)
        count = state.step * rules.updates + done + 1
        restart = jnp.where(done == 0, state.step, -1)  # A stage begins with its first turn.
        moved = _updated(rules, state.players[name], grads, count, restart)
        after = TrainState(state.step, state.players | {name: moved})
        return (eqx.filter(after, eqx.is_array), done + 1), (value, optax.tree.norm(grads))

    (arrays, _), (values, norms) = jax.lax.scan(turn, (arrays, jnp.zeros((), jnp.int32)), turns)
    return eqx.combine(arrays, rest), values, norms


def _gradient(
    name: str,
    rules: Rules,
    setting: Setting,
    batch: Sample,
    keys: Keys,
    state: TrainState,
    steps: int,
) -> Any:
    """The mean loss of one player with what is logged of it, and its gradient."""
    player = state.players[name]
    scene = scene_of(setting, state, steps)
    trained = (player.model, player.loss)
    gradient = eqx.filter_value_and_grad(objective, has_aux=True)
    if rules.accumulate == 1:
        return gradient(trained, scene, batch, keys)

    def add(total: PyTree, part: tuple[Sample, Keys]) -> tuple[PyTree, PyTree]:
        (value, aux), grads = gradient(trained, scene, *part)
        return jax.tree.map(jnp.add, total, (value, grads)), aux

    micro = jax.tree.map(lambda a: a.reshape(rules.accumulate, -1, *a.shape[1:]), (batch, keys))
    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trainable(trained)))
    total, aux = jax.lax.scan(add, zero, micro)
    value, grads = jax.tree.map(lambda a: a / rules.accumulate, total)
    return (value, jax.tree.map(jnp.ravel, aux)), grads


def _updated(
    rules: Rules, player: Player, grads: PyTree, count: Int[Array, ""], at: Int[Array, ""]
) -> Player:
    """A player after its update number `count`; its optimizer begins anew where the step `at` says so."""
    trained = (player.model, player.loss)
    before = player.optimizer_state
    if rules.restarts:
        anew = jnp.any(at == jnp.asarray(rules.restarts))
        fresh = rules.optimizer.init(trainable(trained))
        before = jax.tree.map(partial(jnp.where, anew), fresh, before)
    updates, optimizer_state = rules.optimizer.update(grads, before, trainable(trained))
    model, loss = constrain(eqx.apply_updates(trained, updates))
    average = rules.ema.update(player.ema, model, count)
    leaders = {"model": model, "ema": average}
    followers = {
        name: profile.update(player.followers[name], leaders[of], count)
        for name, (profile, of) in rules.followers.items()
    }
    return Player(model, loss, optimizer_state, average, followers)


def _unless(hold: Bool[Array, ""], advance: Callable[[PyTree], PyTree], state: PyTree) -> PyTree:
    """`advance(state)`, or `state` itself where `hold`."""
    arrays, rest = eqx.partition(state, eqx.is_array)

    def advanced(arrays: PyTree) -> PyTree:
        return eqx.filter(advance(eqx.combine(arrays, rest)), eqx.is_array)

    def looped(arrays: PyTree) -> PyTree:
        """At most one turn of a loop, which is done in place: to select, XLA would copy the state first."""

        def turn(carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            return advanced(carry[0]), ~carry[1]

        return jax.lax.while_loop(lambda carry: ~carry[1], turn, (arrays, hold))[0]

    def selected(arrays: PyTree) -> PyTree:
        """Without a loop, for which a GPU would wait for the host at every step."""
        return jax.tree.map(partial(jnp.where, hold), arrays, advanced(arrays))

    arrays = jax.lax.platform_dependent(arrays, cpu=looped, default=selected)
    return eqx.combine(arrays, rest)


def _selected(hold: Bool[Array, ""], before: PyTree, after: PyTree) -> PyTree:
    arrays, rest = eqx.partition(before, eqx.is_array)
    chosen = jax.tree.map(partial(jnp.where, hold), arrays, eqx.filter(after, eqx.is_array))
    return eqx.combine(chosen, rest)


def _metrics(
    means: dict[str, Scalar],
    metrics: dict[str, Float[Array, " b"]],
    ratio: Float[Array, " b"],
    hold: Bool[Array, ""],
) -> StepMetrics:
    bins = jnp.searchsorted(jnp.asarray(NOISE_BINS), ratio)
    member = jax.nn.one_hot(bins, len(NOISE_BINS) + 1)
    means = {name: jnp.mean(m) for name, m in metrics.items()} | means
    sums = {name: m @ member for name, m in metrics.items()}
    return StepMetrics(means, sums, member.sum(0), hold)
