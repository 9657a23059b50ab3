"""The smallest trainable model that uses everything a network is given."""

import math

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNetwork, AbstractParameterization, Conditioning, DataSpec
from scmkit.models.model import Model
from scmkit.types import Key


class ReferenceNetwork(AbstractNetwork):
    """One hidden layer on the flattened sample, the noise label and the class.

    Unlike a real network it starts far from zero, so that gradients reach every weight at once.
    """

    first: Float[Array, "size hidden"]
    time: Float[Array, "k hidden"]
    label: Float[Array, "classes_and_none hidden"]
    last: Float[Array, "hidden size"]

    def __init__(self, data: DataSpec, *, labels: int = 1, key: Key) -> None:
        size, hidden = math.prod(data.shape), 8
        k_first, k_time, k_label, k_last = jr.split(key, 4)
        self.first = jr.normal(k_first, (size, hidden)) / math.sqrt(size)
        self.time = jr.normal(k_time, (labels, hidden))
        self.label = jr.normal(k_label, (data.num_classes + 1, hidden))
        self.last = jr.normal(k_last, (hidden, size)) / math.sqrt(hidden)

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        none = jnp.asarray(self.label.shape[0] - 1)
        label = none if cond.label is None else cond.label
        h = x.ravel() @ self.first + c_noise @ self.time + self.label[label]
        return (jnp.tanh(h) @ self.last).reshape(x.shape)


def reference_model(
    parameterization: AbstractParameterization, data: DataSpec, *, noise_labels: int = 1
) -> Model:
    """A model with a `ReferenceNetwork`, always the same; with two noise labels a flow map."""
    network = ReferenceNetwork(data, labels=noise_labels, key=jr.key(1))
    return Model(parameterization=parameterization, network=network, noise_labels=noise_labels)
