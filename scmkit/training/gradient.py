"""The gradient of one player's loss over a batch: in micro-batches, and on many devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from scmkit.distribution.gradient import ByHand
from scmkit.interfaces import AbstractBatchLoss, AbstractGroupLoss, AnyLoss, Sample, Scene
from scmkit.training.objective import Trained, objective
from scmkit.training.state import trainable
from scmkit.types import Keys


def gradient_of(
    loss: AnyLoss, samples: int, accumulate: int = 1, hands: ByHand | None = None
) -> Callable[..., Any]:
    """`(trained, scene, batch, keys, fixed) -> ((mean, logged), gradient)` over so many samples.

    Gradients are averaged over `accumulate` micro-batches. With `hands` each device differentiates at its own
    samples, and a weight's gradient comes back in the place of the weight; where samples of several devices
    meet in the loss, XLA divides the work.
    """
    differentiate = partial(_differentiate, accumulate)
    if hands is None:
        return differentiate
    if not meets(loss, samples // accumulate, hands.layout.devices):
        return hands.gradient(differentiate)

    def met(*given: Any) -> Any:
        out, grads = differentiate(*given)
        return out, hands.layout.constrained(grads)

    return met


def meets(loss: AnyLoss, samples: int, devices: int) -> bool:
    """Whether samples that lie on several devices meet in a loss."""
    if isinstance(loss, AbstractGroupLoss):
        return samples // devices % loss.group != 0
    return isinstance(loss, AbstractBatchLoss)


def _differentiate(
    accumulate: int,
    trained: Trained,
    scene: Scene,
    batch: Sample,
    keys: Keys,
    fixed: AnyLoss | None,
) -> Any:
    differentiate = eqx.filter_value_and_grad(objective, has_aux=True)
    if accumulate == 1:
        return differentiate(trained, scene, batch, keys, fixed)

    def add(total: PyTree, part: tuple[Sample, Keys]) -> tuple[PyTree, PyTree]:
        (value, aux), grads = differentiate(trained, scene, *part, fixed)
        return jax.tree.map(jnp.add, total, (value, grads)), aux

    micro = jax.tree.map(lambda a: a.reshape(accumulate, -1, *a.shape[1:]), (batch, keys))
    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trainable(trained)))
    total, aux = jax.lax.scan(add, zero, micro)
    value, grads = jax.tree.map(lambda a: a / accumulate, total)
    return (value, jax.tree.map(jnp.ravel, aux)), grads
