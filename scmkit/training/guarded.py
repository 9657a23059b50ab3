"""The step as training runs it: compiled, and without effect where something is not finite."""

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from scmkit.interfaces import Sample
from scmkit.training.agreement import most
from scmkit.training.packed import Packed
from scmkit.training.state import TrainState
from scmkit.training.step import Measured, Setting, Step, StepMetrics
from scmkit.types import Key


class Given(NamedTuple):
    """What each step is given besides the state."""

    setting: Packed[Setting]
    batch: Sample
    key: Key
    hold: Bool[Array, ""]
    """Whether a step before this one was faulty."""
    wishes: Int[Array, " devices"] | None = None
    """The signal that the process of each device got, 0 for none; None for a process that is alone."""


State = Packed[TrainState]
GuardedStep = Callable[[Given, State], tuple[State, StepMetrics, Bool[Array, ""]]]


def guarded(step: Step) -> GuardedStep:
    """The compiled step `(given, state) -> (state, metrics, hold)`.

    Setting and state are packed; it donates `state`. Where `hold` is true, and where a loss or gradient norm
    of any player is not finite, the state comes back unchanged and the returned `hold` is true. Given to the
    next step, it holds that one too: the host looks at a step only after it has dispatched the next ones.
    """

    def one(given: Given, packed: State) -> tuple[State, StepMetrics, Bool[Array, ""]]:
        state = packed.tree
        measured = step.measure(given.setting.tree, given.batch, given.key, state)
        hold = given.hold | _faulty(measured)

        def update(state: TrainState) -> TrainState:
            # Of what came before it, all that changes without other players.
            remembering = replace(state, memories=measured.state.memories)
            return step.update(remembering, measured.grads)

        if measured.turns:
            after = _selected(hold, state, update(measured.state))
        else:
            after = unless(hold, update, state)
        metrics = replace(measured.metrics, stop=most(given.wishes))
        if step.hands is not None:
            metrics, hold = step.hands.layout.shown((metrics, hold))
        return packed.holding(after), metrics, hold

    return eqx.filter_jit(one, donate="all-except-first")


def _faulty(measured: Measured) -> Bool[Array, ""]:
    """Whether a loss or gradient norm of any player is not finite."""
    means = measured.metrics.means
    good = [jnp.all(jnp.isfinite(values)) for values in measured.turns.values()]
    good.append(jnp.isfinite(means["loss"]) & jnp.isfinite(means["grad_norm"]))
    return ~reduce(operator.and_, good)


def unless(hold: Bool[Array, ""], update: Callable[[PyTree], PyTree], state: PyTree) -> PyTree:
    """`update(state)`, or `state` itself where `hold` is true."""
    arrays, rest = eqx.partition(state, eqx.is_array)

    @partial(jax.jit, inline=True)  # Both forms below are traced, and the update in them once.
    def updated(arrays: PyTree) -> PyTree:
        return eqx.filter(update(eqx.combine(arrays, rest)), eqx.is_array)

    def looped(arrays: PyTree) -> PyTree:
        """At most one turn of a loop, which is done in place: to select, XLA would copy the state first."""

        def turn(carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            return updated(carry[0]), ~carry[1]

        return jax.lax.while_loop(lambda carry: ~carry[1], turn, (arrays, hold))[0]

    def selected(arrays: PyTree) -> PyTree:
        """Without a loop, for which a GPU would wait for the host at every step."""
        return jax.tree.map(partial(jnp.where, hold), arrays, updated(arrays))

    arrays = jax.lax.platform_dependent(arrays, cpu=looped, default=selected)
    return eqx.combine(arrays, rest)


def _selected(hold: Bool[Array, ""], before: PyTree, after: PyTree) -> PyTree:
    arrays, rest = eqx.partition(before, eqx.is_array)
    chosen = jax.tree.map(partial(jnp.where, hold), arrays, eqx.filter(after, eqx.is_array))
    return eqx.combine(chosen, rest)
