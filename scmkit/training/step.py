"""One optimizer step of all players, for every combination of model, tangent and loss."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, PyTree

from scmkit.distribution.gradient import ByHand
from scmkit.interfaces import (
    AbstractCoupling,
    AbstractModel,
    AbstractProposal,
    AbstractTangentEstimator,
    AnyLoss,
    Sample,
    Scene,
)
from scmkit.training.gradient import gradient_of
from scmkit.training.rules import Rules, updated
from scmkit.training.state import Player, TrainState
from scmkit.types import Key, Keys, Scalar

T = TypeVar("T")

NOISE_BINS = (0.1, 0.5, 2.0)
"""Edges, in noise-to-signal ratio, of the bins by which metrics are logged."""


class Setting(eqx.Module):
    """The modules that every step of a training is given and that no step changes."""

    proposal: AbstractProposal
    tangent: AbstractTangentEstimator
    teacher: AbstractModel | None = None
    coupling: AbstractCoupling | None = None
    fixed: Mapping[str, AnyLoss | None] = eqx.field(default_factory=dict)
    """What of each player's loss is not trained."""


class StepMetrics(eqx.Module):
    """The metrics of one step: means, and sums and counts by noise bin."""

    means: dict[str, Scalar]
    sums: dict[str, Float[Array, " bins"]]
    counts: Float[Array, " bins"]
    stop: Int[Array, ""] | None = None
    """The signal after which training is to stop, 0 for none; None where the only process knows it."""


class Begun(NamedTuple):
    """A step after the turns of the players beside the generator."""

    batch: Sample
    """The batch as the coupling has made it."""
    state: TrainState
    turns: dict[str, Float[Array, " updates"]]
    """The loss and the gradient norm of each turn, as `NAME/loss` and `NAME/grad_norm`."""
    keys: Keys
    """The keys of the generator's samples."""


class Measured(NamedTuple):
    """A step before its last part, the generator's update."""

    state: TrainState
    turns: dict[str, Float[Array, " updates"]]
    """As in `Begun`."""
    grads: PyTree
    """The generator's gradient."""
    metrics: StepMetrics
    """Among the means are the generator's `loss` and `grad_norm`."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of all players, a function `(setting, batch, key, state) -> (state, metrics)`.

    Each player's model and its loss's own arrays are trained together under one
    `eqx.filter_value_and_grad`. The players other than the generator have their turns first, each `updates`
    times with keys of its own; sample `i` of the generator's step `n` draws from
    `split(fold_in(key, n))[i]`.

    **Attributes:**

    - `rules`: how each player is updated, by its name.
    - `steps`: the length of the training.
    - `hands`: what passes between devices, where arrays are divided among several. Each array that losses see
        is gathered once for each value it takes.
    """

    rules: Mapping[str, Rules]
    steps: int
    hands: ByHand | None = None

    def __call__(
        self, setting: Setting, batch: Sample, key: Key, state: TrainState
    ) -> tuple[TrainState, StepMetrics]:
        """The state after a step, and its metrics."""
        measured = self.measure(setting, batch, key, state)
        return self.update(measured.state, measured.grads), measured.metrics

    def begin(self, setting: Setting, batch: Sample, key: Key, state: TrainState) -> Begun:
        """The first part of a step: a batch coupled and remembered, and the turns of all other players."""
        return self._begin(setting, batch, key, state)[0]

    def _begin(
        self, setting: Setting, batch: Sample, key: Key, state: TrainState
    ) -> tuple[Begun, Setting, TrainState]:
        """The same, and the setting and what losses see of the state with every array whole."""
        key = jr.fold_in(key, state.step)
        if setting.coupling is not None:
            batch = setting.coupling(batch, key=jr.fold_in(key, zlib.crc32(b"coupling")))
        memories = {name: memory.remember(batch) for name, memory in state.memories.items()}
        state, told = TrainState(state.step, state.players, memories), {}
        setting, gathered = self._whole(setting), self._gathered(_seen(state))
        for name, rules in self.rules.items():
            if name != "generator":
                turns = jr.split(jr.fold_in(key, zlib.crc32(name.encode())), rules.updates)
                state, gathered, values, norms = self._turns(
                    name, setting, batch, turns, state, gathered
                )
                told |= {f"{name}/loss": values, f"{name}/grad_norm": norms}
        keys = jr.split(key, batch.x0.shape[0])
        return Begun(batch, state, told, keys), setting, _completed(gathered, state)

    def measure(self, setting: Setting, batch: Sample, key: Key, state: TrainState) -> Measured:
        """All of a step but the generator's update."""
        begun, setting, whole = self._begin(setting, batch, key, state)
        (value, (metrics, ratio)), grads = self._gradient(
            "generator", setting, begun.batch, begun.keys, whole
        )
        means = {"loss": value, "grad_norm": optax.tree.norm(grads)}
        means |= {name: jnp.mean(values) for name, values in begun.turns.items()}
        return Measured(begun.state, begun.turns, grads, _metrics(means, metrics, ratio))

    def update(self, state: TrainState, grads: PyTree) -> TrainState:
        """The last part of a step: the state after the generator's update by its gradient."""
        count = state.step + 1
        moved = updated(self.rules["generator"], state.generator, grads, count, state.step)
        after = TrainState(count, state.players | {"generator": moved}, state.memories)
        return after if self.hands is None else self.hands.layout.constrained(after)

    def _turns(
        self,
        name: str,
        setting: Setting,
        batch: Sample,
        turns: Keys,
        state: TrainState,
        gathered: TrainState | None,
    ) -> tuple[TrainState, TrainState | None, Float[Array, " updates"], Float[Array, " updates"]]:
        """All updates of one player before the generator's, and their losses and gradient norms."""
        arrays, rest = eqx.partition(state, eqx.is_array)
        rules = self.rules[name]

        def turn(carry: tuple[PyTree, PyTree, Int[Array, ""]], key: Key) -> Any:
            state, own, done = eqx.combine(carry[0], rest), carry[1], carry[2]
            keys = jr.split(key, batch.x0.shape[0])
            whole = _completed(_with(gathered, name, own), state)
            (value, _), grads = self._gradient(name, setting, batch, keys, whole)
            count = state.step * rules.updates + done + 1
            restart = jnp.where(done == 0, state.step, -1)  # A stage begins with its first turn.
            moved = updated(rules, state.players[name], grads, count, restart)
            if self.hands is not None:
                moved = self.hands.layout.constrained(moved)
            own = self._gathered(_seen_of(moved))
            after = TrainState(state.step, state.players | {name: moved}, state.memories)
            return (eqx.filter(after, eqx.is_array), own, done + 1), (value, optax.tree.norm(grads))

        own = None if gathered is None else gathered.players[name]
        start = (arrays, own, jnp.zeros((), jnp.int32))
        (arrays, own, _), (values, norms) = jax.lax.scan(turn, start, turns)
        return eqx.combine(arrays, rest), _with(gathered, name, own), values, norms

    def _gradient(
        self, name: str, setting: Setting, batch: Sample, keys: Keys, state: TrainState
    ) -> Any:
        """The mean loss of one player with what is logged of it, and its gradient; all arrays are whole."""
        player, accumulate = state.players[name], self.rules[name].accumulate
        trained, scene = (player.model, player.loss), scene_of(setting, state, self.steps)
        differentiate = gradient_of(player.loss, batch.x0.shape[0], accumulate, self.hands)
        return differentiate(trained, scene, batch, keys, setting.fixed.get(name))

    def _gathered(self, tree: T) -> T | None:
        """What of a tree is divided among devices, whole; None for the rest."""
        return None if self.hands is None else self.hands.gather(tree)

    def _whole(self, tree: T) -> T:
        return _completed(self._gathered(tree), tree)


def _completed(gathered: Any, tree: T) -> T:
    """A tree with what is gathered of it in its place."""
    return cast(T, eqx.combine(gathered, tree))


def _seen_of(player: Player) -> Player:
    """What losses see of a player: all but its optimizer's state and its average."""
    return Player(player.model, player.loss, None, None, player.followers)


def _seen(state: TrainState) -> TrainState:
    """The same of a state."""
    players = {name: _seen_of(player) for name, player in state.players.items()}
    return TrainState(state.step, players, state.memories)


def _with(gathered: TrainState | None, name: str, own: Any) -> TrainState | None:
    """What is gathered of a state, with another value of one player."""
    if gathered is None:
        return None
    return TrainState(gathered.step, gathered.players | {name: own}, gathered.memories)


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
        memories=state.memories,
    )


def _metrics(
    means: dict[str, Scalar], metrics: dict[str, Float[Array, " b"]], ratio: Float[Array, " b"]
) -> StepMetrics:
    bins = jnp.searchsorted(jnp.asarray(NOISE_BINS), ratio)
    member = jax.nn.one_hot(bins, len(NOISE_BINS) + 1)
    means = {name: jnp.mean(m) for name, m in metrics.items()} | means
    sums = {name: m @ member for name, m in metrics.items()}
    return StepMetrics(means, sums, member.sum(0))
