"""What networks are told besides their input: time and condition as one embedding vector."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractTimeEmbedding, Conditioning
from scmkit.types import Key


class ConditioningEmbedding(eqx.Module):
    """A two-layer SiLU network of the time features, plus one learned vector per class.

    Every built-in network starts with it, so that a time embedding serves them all. Row
    `num_classes` of the table stands for "no label". Always float32.
    """

    embedding: AbstractTimeEmbedding
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    labels: Float[Array, "classes_and_none dim"] | None

    def __init__(
        self, embedding: AbstractTimeEmbedding, dim: int, num_classes: int, *, key: Key
    ) -> None:
        k_first, k_second, k_labels = jr.split(key, 3)
        self.embedding = embedding
        self.first = _linear(embedding.dim, dim, key=k_first)
        self.second = _linear(dim, dim, key=k_second)
        self.labels = jr.normal(k_labels, (num_classes + 1, dim)) if num_classes else None

    def __call__(
        self, c_noise: Float[Array, " k"], cond: Conditioning | None
    ) -> Float[Array, " dim"]:
        """The embedding, passed through a last SiLU: ready for a modulation's linear layer."""
        emb = self.second(jax.nn.silu(self.first(self.embedding(c_noise))))
        label = None if cond is None else cond.label
        if self.labels is not None:
            none = self.labels.shape[0] - 1
            emb = emb + self.labels[jnp.asarray(none) if label is None else label]
        elif label is not None:
            raise ValueError("this network was built without classes but was given a label")
        return jax.nn.silu(emb)


def _linear(in_: int, out: int, *, key: Key) -> eqx.nn.Linear:
    """A linear layer that keeps unit variance; equinox's own initialisation has a third of it."""
    layer = eqx.nn.Linear(in_, out, key=key)
    weight = in_**-0.5 * jr.normal(key, (out, in_))
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(out)))
