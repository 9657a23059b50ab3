"""One optimizer step, for every combination of model, tangent and loss."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from scmkit.interfaces import AbstractLoss, AbstractTangentEstimator, Conditioning
from scmkit.model import Model
from scmkit.training.ema import AbstractEMA
from scmkit.training.state import Player, TrainState, trainable
from scmkit.types import Key, Keys, Scalar

NOISE_BINS = (0.1, 0.5, 2.0)
"""Edges, in noise-to-signal ratio, of the bins by which metrics are logged."""


class Batch(eqx.Module):
    """What a step is given: data in the model's units, what it is conditioned on, a key for each."""

    x0: Float[Array, "b *shape"]
    cond: Conditioning | None
    keys: Keys


class StepMetrics(eqx.Module):
    """The metrics of one step: means, and sums and counts by noise bin."""

    means: dict[str, Scalar]
    sums: dict[str, Float[Array, " bins"]]
    counts: Float[Array, " bins"]


Step = Callable[
    [tuple[AbstractTangentEstimator, Batch], TrainState], tuple[TrainState, StepMetrics]
]


def make_step(
    optimizer: optax.GradientTransformation, ema: AbstractEMA, *, accumulate: int = 1
) -> Step:
    """The compiled training step `((tangent, batch), state) -> (state, metrics)`; donates `state`.

    The model and the loss's own arrays are trained together under one
    `eqx.filter_value_and_grad`. `accumulate` splits the batch into micro-batches whose gradients are
    averaged.
    """

    def objective(
        trained: tuple[Model, AbstractLoss],
        tangent: AbstractTangentEstimator,
        batch: Batch,
        step: Int[Array, ""],
    ) -> tuple[Scalar, tuple[Any, Any]]:
        model, loss = trained

        def one(x0: Array, cond: Conditioning | None, key: Key) -> Any:
            return loss(model, tangent, x0, cond, step=step, key=key)

        out = jax.vmap(one)(batch.x0, batch.cond, batch.keys)
        mean = jnp.mean(out.value)
        return mean, (out.metrics, out.ratio)

    gradient = eqx.filter_value_and_grad(objective, has_aux=True)

    def gradients(
        trained: tuple[Model, AbstractLoss],
        tangent: AbstractTangentEstimator,
        batch: Batch,
        step: Int[Array, ""],
    ) -> Any:
        if accumulate == 1:
            return gradient(trained, tangent, batch, step)
        micro = jax.tree.map(lambda a: a.reshape(accumulate, -1, *a.shape[1:]), batch)

        def add(total: Any, part: Batch) -> tuple[Any, Any]:
            (value, aux), grads = gradient(trained, tangent, part, step)
            return jax.tree.map(jnp.add, total, (value, grads)), aux

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trainable(trained)))
        (value, grads), aux = jax.lax.scan(add, zero, micro)
        value, grads = jax.tree.map(lambda a: a / accumulate, (value, grads))
        return (value, jax.tree.map(lambda a: a.reshape(-1), aux)), grads

    def step(
        given: tuple[AbstractTangentEstimator, Batch], state: TrainState
    ) -> tuple[TrainState, StepMetrics]:
        tangent, batch = given
        player = state.generator
        trained = (player.model, player.loss)
        (value, (metrics, ratio)), grads = gradients(trained, tangent, batch, state.step)
        updates, optimizer_state = optimizer.update(
            grads, player.optimizer_state, trainable(trained)
        )
        model, loss = eqx.apply_updates(trained, updates)
        count = state.step + 1
        averaged = ema.update(player.ema, model, count)
        done = TrainState(count, {"generator": Player(model, loss, optimizer_state, averaged)})
        by_bin = jnp.searchsorted(jnp.asarray(NOISE_BINS), ratio)
        member = jax.nn.one_hot(by_bin, len(NOISE_BINS) + 1)
        means = {
            "loss": value,
            **{name: jnp.mean(m) for name, m in metrics.items()},
            "grad_norm": optax.global_norm(grads),
        }
        sums = {name: m @ member for name, m in metrics.items()}
        return done, StepMetrics(means, sums, member.sum(0))

    return eqx.filter_jit(step, donate="all-except-first")
