"""The mean loss of one player over a batch, which every step differentiates."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractBatchLoss, AbstractLoss, LossOutput, Sample, Scene
from scmkit.losses import frozen
from scmkit.types import Keys, Scalar

Trained = tuple[Any, AbstractLoss | AbstractBatchLoss]
"""What is trained together: a model, and the loss with its own arrays."""


def losses(trained: Trained, scene: Scene, batch: Sample, keys: Keys) -> LossOutput:
    """The losses of a batch, each field with a leading axis."""
    model, loss = trained
    if isinstance(loss, AbstractBatchLoss):
        return loss(model, scene, batch, keys=keys)

    def one(sample: Sample, key: Any) -> LossOutput:
        return loss(model, scene, sample, key=key)

    return jax.vmap(one)(batch, keys)


def objective(
    trained: Trained, scene: Scene, batch: Sample, keys: Keys
) -> tuple[Scalar, tuple[dict[str, Float[Array, " b"]], Float[Array, " b"]]]:
    """The mean loss over a batch, and each sample's metrics and noise-to-signal ratio.

    No gradient enters the scene.
    """
    out = losses(trained, frozen(scene), batch, keys)
    return jnp.mean(out.value), (out.metrics, out.ratio)
