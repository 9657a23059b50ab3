"""The mean loss of one player over a batch, which every step differentiates."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import (
    AbstractBatchLoss,
    AbstractGroupLoss,
    AnyLoss,
    LossOutput,
    Sample,
    Scene,
)
from scmkit.losses import frozen
from scmkit.training.fixed import whole
from scmkit.types import Key, Keys, Scalar

Trained = tuple[Any, AnyLoss]
"""What is trained together: a model, and the loss with its own arrays."""


def losses(trained: Trained, scene: Scene, batch: Sample, keys: Keys) -> LossOutput:
    """The losses of a batch, each field with a leading axis."""
    model, loss = trained
    if isinstance(loss, AbstractBatchLoss):
        return loss(model, scene, batch, keys=keys)

    def one(given: Sample, key: Key) -> LossOutput:
        return loss(model, scene, given, key=key)

    if not isinstance(loss, AbstractGroupLoss):
        return jax.vmap(one)(batch, keys)
    groups = jax.tree.map(lambda a: a.reshape(-1, loss.group, *a.shape[1:]), batch)
    out = jax.vmap(one)(groups, keys[:: loss.group])
    return jax.tree.map(lambda a: jnp.repeat(a, loss.group), out)


def objective(
    trained: Trained, scene: Scene, batch: Sample, keys: Keys, fixed: AnyLoss | None = None
) -> tuple[Scalar, tuple[dict[str, Float[Array, " b"]], Float[Array, " b"]]]:
    """The mean loss over a batch, and each sample's metrics and noise-to-signal ratio.

    `fixed` is what of the loss is not trained. No gradient enters the scene.
    """
    model, loss = trained
    out = losses((model, whole(loss, fixed)), frozen(scene), batch, keys)
    return jnp.mean(out.value), (out.metrics, out.ratio)
