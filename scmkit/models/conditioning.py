"""What networks are told besides their input: time and condition as one embedding vector."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.errors import UsageError
from scmkit.interfaces import AbstractTimeEmbedding, Conditioning
from scmkit.types import Key, Scalar


class GuidanceEmbedding(eqx.Module):
    r"""Positional features of the guidance strength through a linear layer, to add to an embedding.

    $W\,(\cos \nu_i \omega, \sin \nu_i \omega)$, the frequencies geometric from 1 to 1e-4 (arXiv 2410.11081,
    Appendix G). It starts silent, so that a student begins as its teacher. No strength means 1.
    """

    weight: Float[Array, "features dim"]

    def __init__(self, dim: int, *, features: int = 64) -> None:
        self.weight = jnp.zeros((features, dim))

    def __call__(self, guidance: Scalar | None) -> Float[Array, " dim"]:
        strength = jnp.ones(()) if guidance is None else guidance.astype(jnp.float32)
        frequencies = np.geomspace(1, 1e-4, self.weight.shape[0] // 2, dtype=np.float32)
        angle = strength * frequencies
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)]) @ self.weight


def guidance_of(
    cond: Conditioning | None, embedding: GuidanceEmbedding | None
) -> Float[Array, " dim"] | float:
    """What guidance adds to an embedding: 0 where the network is not told of it.

    Raises `UsageError` for a strength given to a network that takes none.
    """
    given = None if cond is None else cond.guidance
    if embedding is not None:
        return embedding(given)
    if given is not None:
        raise UsageError(
            "this network takes no guidance strength; wrap its model in scmkit.Guided instead"
        )
    return 0.0


class ConditioningEmbedding(eqx.Module):
    """A two-layer SiLU network of the time features, plus one learned vector per class.

    Most built-in networks start with it, so that a time embedding serves them all. Row
    `num_classes` of the table stands for "no label". Always float32. `guided` networks are told the
    guidance strength, too.
    """

    embedding: AbstractTimeEmbedding
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    labels: Float[Array, "classes_and_none dim"] | None
    guidance: GuidanceEmbedding | None

    def __init__(
        self,
        embedding: AbstractTimeEmbedding,
        dim: int,
        num_classes: int,
        *,
        guided: bool = False,
        key: Key,
    ) -> None:
        k_first, k_second, k_labels = jr.split(key, 3)
        self.embedding = embedding
        self.first = _linear(embedding.dim, dim, key=k_first)
        self.second = _linear(dim, dim, key=k_second)
        self.labels = jr.normal(k_labels, (num_classes + 1, dim)) if num_classes else None
        self.guidance = GuidanceEmbedding(dim) if guided else None

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
            raise UsageError("this network was built without classes but was given a label")
        return jax.nn.silu(emb + guidance_of(cond, self.guidance))


def _linear(in_: int, out: int, *, key: Key) -> eqx.nn.Linear:
    """A linear layer that keeps unit variance; equinox's own initialisation has a third of it."""
    layer = eqx.nn.Linear(in_, out, key=key)
    weight = in_**-0.5 * jr.normal(key, (out, in_))
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(out)))
