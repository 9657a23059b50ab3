"""The state of training: all that a checkpoint holds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from scmkit.interfaces import AbstractLoss
from scmkit.models.model import Model


class Player(eqx.Module):
    """One set of weights in training: the model, its loss's own weights, optimizer state and EMA."""

    model: Model
    loss: AbstractLoss
    optimizer_state: PyTree
    ema: Model


class TrainState(eqx.Module):
    """The number of finished optimizer steps, and the players by name.

    There is one player, `"generator"`; objectives with a second (a fake score) add it beside.
    """

    step: Int[Array, ""]
    players: dict[str, Player]

    @property
    def generator(self) -> Player:
        """The player whose samples are wanted."""
        return self.players["generator"]


def trainable(tree: PyTree) -> PyTree:
    """The inexact arrays of a tree, None elsewhere."""
    return eqx.filter(tree, eqx.is_inexact_array)


def initial_state(
    model: Model, loss: AbstractLoss, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step; the EMA starts as the model."""
    player = Player(
        model=model,
        loss=loss,
        optimizer_state=optimizer.init(trainable((model, loss))),
        # A copy: the step donates its buffers, and one buffer cannot be donated twice.
        ema=jax.tree.map(lambda a: jnp.copy(a) if eqx.is_array(a) else a, model),
    )
    return TrainState(step=jnp.zeros((), jnp.int32), players={"generator": player})
