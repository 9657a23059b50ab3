"""A small classifier, and its training: convolutions for images, dense layers for vectors."""

import math
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, Int, PyTree

from scmkit.data import Loader
from scmkit.interfaces import AbstractDataset, DataSpec
from scmkit.settings import TrainingSettings
from scmkit.training.optimizer import build_optimizer
from scmkit.training.progress import Bar
from scmkit.types import Key, Scalar
from scmkit_plugins.layers.convolution import Conv
from scmkit_plugins.layers.linear import Linear

FEATURES = 64
"""Width of the last hidden layer, whose activations are the features."""

_ENOUGH = 4
"""Images are halved until one side is no longer than this."""


class SmallClassifier(eqx.Module):
    """Convolutions, each followed by the maximum over 2x2 pixels, and three dense layers."""

    convolutions: tuple[Conv, ...]
    dense: Linear
    hidden: Linear
    last: Linear

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, *, key: Key) -> None:
        keys = iter(jr.split(key, 16))
        convolutions, channels, sides = [], shape[0], shape[1:]
        while len(shape) == 3 and min(sides) > _ENOUGH:
            out = width * 2 ** min(len(convolutions), 2)
            convolutions.append(Conv(channels, out, scale=math.sqrt(2), key=next(keys)))
            channels, sides = out, tuple(side // 2 for side in sides)
        self.convolutions = tuple(convolutions)
        flat = channels * math.prod(sides)
        self.dense = Linear(flat, 4 * width, scale=math.sqrt(2), key=next(keys))
        self.hidden = Linear(4 * width, FEATURES, scale=math.sqrt(2), key=next(keys))
        self.last = Linear(FEATURES, classes, key=next(keys))

    def __call__(
        self, x: Float[Array, "*shape"]
    ) -> tuple[Float[Array, " features"], Float[Array, " classes"]]:
        """Features and logits of a sample of mean 0 and standard deviation 1."""
        h = jnp.moveaxis(x, 0, -1)
        for convolution in self.convolutions:
            h = _halved(jax.nn.relu(convolution(h)))
        h = jax.nn.relu(self.dense(h.reshape(-1)))
        features = jax.nn.relu(self.hidden(h))
        return features, self.last(features)


def _halved(x: Float[Array, "h w c"]) -> Float[Array, "a b c"]:
    """The maximum of each 2x2 pixels; what is over of odd sizes is left out."""
    h, w, c = x.shape
    return x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c).max((1, 3))


def _loss(
    network: SmallClassifier, x: Float[Array, "b *shape"], labels: Int[Array, " b"]
) -> Scalar:
    _, logits = jax.vmap(network)(x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(
    network: SmallClassifier, dataset: AbstractDataset, spec: DataSpec, settings: TrainingSettings
) -> SmallClassifier:
    """The network, fitted to the training split, with progress on stderr."""
    optimizer = build_optimizer(settings, settings.steps)

    @eqx.filter_jit
    def step(
        network: SmallClassifier, state: PyTree, x: Array, labels: Array
    ) -> tuple[SmallClassifier, PyTree, Scalar]:
        loss, gradient = eqx.filter_value_and_grad(_loss)(network, x, labels)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(network, updates), state, loss

    bar, state = Bar(), optimizer.init(eqx.filter(network, eqx.is_array))
    bar.start("classifier", 0, settings.steps)
    start = time.monotonic()
    try:
        with Loader(dataset, spec, settings.batch_size, settings.seed) as batches:
            for done in range(1, settings.steps + 1):
                x, labels = next(batches)
                network, state, loss = step(network, state, jnp.asarray(x), jnp.asarray(labels))
                if done % 50 == 0 or done == settings.steps:
                    rate = done / (time.monotonic() - start)
                    bar.advance(done, {"loss": float(loss), "steps_per_second": rate})
    finally:
        bar.stop()
    return network
