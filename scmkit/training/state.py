"""The state of training: all that a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from scmkit.interfaces import AbstractMemory, AnyLoss


class Player(eqx.Module):
    """One set of weights in training: model, loss with its own weights, optimizer state, EMA, followers.

    What of the loss is not trained is not here, but in the `Setting` of every step.
    """

    model: Any
    loss: AnyLoss
    optimizer_state: PyTree
    ema: Any
    followers: dict[str, Any] = eqx.field(default_factory=dict)
    """Lagging copies of the model by name, without gradient."""


class TrainState(eqx.Module):
    """The number of optimizer steps that the generator has finished, and the players by name.

    There is always the player `"generator"`, whose samples are wanted; a method adds others beside it.
    """

    step: Int[Array, ""]
    players: dict[str, Player]
    memories: dict[str, AbstractMemory] = eqx.field(default_factory=dict)
    """What is remembered of the data, by name."""

    @property
    def generator(self) -> Player:
        """The player whose samples are wanted."""
        return self.players["generator"]


def trainable(tree: PyTree) -> PyTree:
    """The inexact arrays of a tree, None elsewhere."""
    return eqx.filter(tree, eqx.is_inexact_array)


def initial_player(
    model: Any,
    loss: AnyLoss,
    optimizer: optax.GradientTransformation,
    followers: Mapping[str, Any] | None = None,
) -> Player:
    """A player before its first update. Its EMA starts as the model, each follower as the module given."""
    # Copies: the step donates its buffers, and one buffer cannot be donated twice.
    return Player(
        model=model,
        loss=loss,
        optimizer_state=optimizer.init(trainable((model, loss))),
        ema=_copied(model),
        followers={name: _copied(start) for name, start in (followers or {}).items()},
    )


def initial_state(model: Any, loss: AnyLoss, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step of a training with one player."""
    return state_of({"generator": initial_player(model, loss, optimizer)})


def state_of(
    players: dict[str, Player], memories: Mapping[str, AbstractMemory] | None = None
) -> TrainState:
    """The state before the first step, of these players and with these memories."""
    return TrainState(jnp.zeros((), jnp.int32), players, _copied(dict(memories or {})))


def _copied(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.copy(a) if eqx.is_array(a) else a, tree)
