"""How one player is updated by its gradient."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from scmkit.interfaces import AbstractEMA, constrain
from scmkit.training.state import Player, trainable


@dataclass(frozen=True)
class Rules:
    """How one player is updated.

    **Attributes:**

    - `optimizer`, `ema`: the player's own.
    - `updates`: the player's updates before each of the generator's (the generator itself has one).
    - `followers`: for each lagging copy its profile, and whether it follows the `"model"` or the `"ema"`.
    - `restarts`: the generator's steps at which the optimizer begins anew.
    - `accumulate`: the number of micro-batches whose gradients are averaged.
    """

    optimizer: optax.GradientTransformation
    ema: AbstractEMA
    updates: int = 1
    followers: Mapping[str, tuple[AbstractEMA, str]] = field(default_factory=dict)
    restarts: tuple[int, ...] = ()
    accumulate: int = 1


def updated(
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
