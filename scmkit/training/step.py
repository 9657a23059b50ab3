"""One optimizer step, for every combination of model, tangent and loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from scmkit.composing.conformity import expect_array, expect_kind
from scmkit.interfaces import (
    AbstractLoss,
    AbstractTangentEstimator,
    Conditioning,
    LossOutput,
    constrain,
)
from scmkit.models.model import Model
from scmkit.training.ema import AbstractEMA
from scmkit.training.state import Player, TrainState, trainable
from scmkit.types import Key, Keys, Scalar

NOISE_BINS = (0.1, 0.5, 2.0)
"""Edges, in noise-to-signal ratio, of the bins by which metrics are logged."""


class Batch(eqx.Module):
    """Data in the model's units, and what each sample is conditioned on."""

    x0: Float[Array, "b *shape"]
    cond: Conditioning | None
    hold: Bool[Array, ""] | None = None
    """Change nothing: a step before this one was faulty. It is the `hold` of that step's metrics."""


class StepMetrics(eqx.Module):
    """The metrics of one step: means, and sums and counts by noise bin.

    `hold` says that the state stayed as it was: loss or gradient norm of this step, or of one before it,
    was not finite.
    """

    means: dict[str, Scalar]
    sums: dict[str, Float[Array, " bins"]]
    counts: Float[Array, " bins"]
    hold: Bool[Array, ""]


Given = tuple[AbstractTangentEstimator, Batch, Key]
Step = Callable[[Given, TrainState], tuple[TrainState, StepMetrics]]


def objective(
    trained: tuple[Model, AbstractLoss],
    tangent: AbstractTangentEstimator,
    batch: Batch,
    keys: Keys,
    step: Int[Array, ""],
) -> tuple[Scalar, tuple[dict[str, Float[Array, " b"]], Float[Array, " b"]]]:
    """The mean loss over a batch, and each sample's metrics and noise-to-signal ratio."""
    model, loss = trained

    def one(x0: Array, cond: Conditioning | None, key: Key) -> LossOutput:
        out = loss(model, tangent, x0, cond, step=step, key=key)
        expect_kind(loss, "loss", out, LossOutput)
        expect_array(loss, "loss", out.value, (), x0.dtype)
        for name, value in {"ratio": out.ratio, **out.metrics}.items():
            expect_array(loss, f"loss as '{name}'", value, ())
        return out

    out = jax.vmap(one)(batch.x0, batch.cond, keys)
    return jnp.mean(out.value), (out.metrics, out.ratio)


def make_step(
    optimizer: optax.GradientTransformation, ema: AbstractEMA, *, accumulate: int = 1
) -> Step:
    """The compiled training step `((tangent, batch, key), state) -> (state, metrics)`.

    It donates `state`. The model and the loss's own arrays are trained together under one
    `eqx.filter_value_and_grad`. Sample `i` of step `n` draws from `split(fold_in(key, n))[i]`.
    `accumulate` splits the batch into micro-batches, whose gradients are averaged. Where the loss or the
    gradient's norm is not finite, and where `batch.hold`, the state comes back unchanged.
    """
    gradient = eqx.filter_value_and_grad(objective, has_aux=True)

    def accumulated(
        trained: tuple[Model, AbstractLoss],
        tangent: AbstractTangentEstimator,
        batch: Batch,
        keys: Keys,
        step: Int[Array, ""],
    ) -> Any:
        def add(total: Any, part: tuple[Batch, Keys]) -> tuple[Any, Any]:
            (value, aux), grads = gradient(trained, tangent, *part, step)
            return jax.tree.map(jnp.add, total, (value, grads)), aux

        micro = jax.tree.map(lambda a: a.reshape(accumulate, -1, *a.shape[1:]), (batch, keys))
        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trainable(trained)))
        total, aux = jax.lax.scan(add, zero, micro)
        value, grads = jax.tree.map(lambda a: a / accumulate, total)
        return (value, jax.tree.map(jnp.ravel, aux)), grads

    def step(given: Given, state: TrainState) -> tuple[TrainState, StepMetrics]:
        tangent, batch, key = given
        hold, batch = batch.hold, Batch(batch.x0, batch.cond)
        player = state.generator
        trained = (player.model, player.loss)
        keys = jr.split(jr.fold_in(key, state.step), batch.x0.shape[0])
        differentiate = gradient if accumulate == 1 else accumulated
        (value, (metrics, ratio)), grads = differentiate(trained, tangent, batch, keys, state.step)
        norm = optax.tree.norm(grads)
        faulty = ~(jnp.isfinite(value) & jnp.isfinite(norm))
        hold = faulty if hold is None else hold | faulty

        def advance(state: TrainState) -> TrainState:
            player = state.generator
            trained = (player.model, player.loss)
            updates, optimizer_state = optimizer.update(
                grads, player.optimizer_state, trainable(trained)
            )
            model, loss = constrain(eqx.apply_updates(trained, updates))
            count = state.step + 1
            averaged = ema.update(player.ema, model, count)
            return TrainState(count, {"generator": Player(model, loss, optimizer_state, averaged)})

        # On the device: the loop looks at a step only after it has dispatched the next ones.
        return _unless(hold, advance, state), _metrics(value, metrics, ratio, norm, hold)

    return eqx.filter_jit(step, donate="all-except-first")


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


def _metrics(
    value: Scalar,
    metrics: dict[str, Float[Array, " b"]],
    ratio: Float[Array, " b"],
    norm: Scalar,
    hold: Bool[Array, ""],
) -> StepMetrics:
    bins = jnp.searchsorted(jnp.asarray(NOISE_BINS), ratio)
    member = jax.nn.one_hot(bins, len(NOISE_BINS) + 1)
    means = {name: jnp.mean(m) for name, m in metrics.items()}
    means |= {"loss": value, "grad_norm": norm}
    sums = {name: m @ member for name, m in metrics.items()}
    return StepMetrics(means, sums, member.sum(0), hold)
