"""Times and conditions as one embedding vector, which networks are told besides their input."""

from collections.abc import Callable, Collection

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from scmkit.errors import UsageError
from scmkit.interfaces import AbstractTimeEmbedding, Conditioning
from scmkit.types import Key

NEUTRAL = {"guidance": 1.0, "guidance_from": 0.0, "guidance_to": 1.0}
"""The value of a scalar condition where none is given; a condition that is not listed here must be given."""


class ScalarEmbedding(eqx.Module):
    r"""Positional features of a scalar condition through a linear layer, to add to an embedding.

    $W\,(\cos \nu_i \omega, \sin \nu_i \omega)$, the frequencies geometric from 1 to 1e-4 (arXiv 2410.11081,
    Appendix G). It starts silent, so that a student begins as its teacher.
    """

    weight: Float[Array, "features dim"]

    def __init__(self, dim: int, *, features: int = 64) -> None:
        self.weight = jnp.zeros((features, dim))

    def __call__(self, value: Float[Array, ""]) -> Float[Array, " dim"]:
        frequencies = np.geomspace(1, 1e-4, self.weight.shape[0] // 2, dtype=np.float32)
        angle = value.astype(jnp.float32) * frequencies
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)]) @ self.weight


class ScalarConditions(eqx.Module):
    """The embeddings of a sample's scalar conditions, each by its name, as one vector of size `dim`."""

    embeddings: dict[str, ScalarEmbedding]

    def __init__(self, names: Collection[str], dim: int) -> None:
        self.embeddings = {name: ScalarEmbedding(dim) for name in sorted(names)}

    def __call__(self, cond: Conditioning) -> Float[Array, " dim"] | float:
        """The sum over all conditions; 0 for a network that is told none.

        Raises `UsageError` for a condition that the network does not take, or takes and is not given.
        """
        for name in cond.scalars:
            if name not in self.embeddings:
                remedy = "; wrap its model in scmkit.Guided instead" if name == "guidance" else ""
                raise UsageError(f"this network is not told the condition '{name}'{remedy}")
        total: Float[Array, " dim"] | float = 0.0
        for name, embedding in self.embeddings.items():
            if name not in cond.scalars and name not in NEUTRAL:
                raise UsageError(f"this network needs the condition '{name}'")
            value = cond.scalars.get(name)
            total = total + embedding(jnp.asarray(NEUTRAL[name]) if value is None else value)
        return total


class SecondLabel(eqx.Module):
    """Time features of where a flow map's jump ends, through a linear layer, to add to an embedding.

    It starts silent: with a teacher's weights the map begins as the teacher's DDIM step, exactly.
    """

    weight: Float[Array, "features dim"]

    def __init__(self, features: int, dim: int) -> None:
        self.weight = jnp.zeros((features, dim))

    def __call__(self, features: Float[Array, " features"]) -> Float[Array, " dim"]:
        return features @ self.weight


def with_end(
    x: Float[Array, " dim"],
    end: SecondLabel | None,
    embedding: AbstractTimeEmbedding,
    c_noise: Float[Array, " k"],
) -> Float[Array, " dim"]:
    """`x`, and what the time at which a flow map's jump ends adds to it."""
    return x if end is None else x + end(embedding(c_noise[1:]))


def both_ends(
    embed: Callable[[Float[Array, " k"], Conditioning], Float[Array, " dim"]],
    c_noise: Float[Array, " k"],
    cond: Conditioning,
    *,
    decoupled: bool,
) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
    """What the first and the last part of a network are told of the times of a flow map's jump.

    Decoupled, the first part is told where the jump starts and the last where it ends, by one embedding of
    one label: the weights are those of a diffusion model, whose output a jump from `t` to `t` has
    (Decoupled MeanFlow, arXiv 2510.24474). Otherwise both parts are told both.
    """
    if not decoupled or c_noise.shape[0] == 1:
        emb = embed(c_noise, cond)
        return emb, emb
    return embed(c_noise[:1], cond), embed(c_noise[1:], cond)


def class_row(cond: Conditioning, num_classes: int) -> Int[Array, ""] | None:
    """The row of a sample's class in a table whose row `num_classes` stands for "no label".

    None for a network without classes; raises `UsageError` if that was given a label.
    """
    if num_classes:
        return jnp.asarray(num_classes if cond.label is None else cond.label)
    if cond.label is not None:
        raise UsageError("this network was built without classes but was given a label")
    return None


class ConditioningEmbedding(eqx.Module):
    """A two-layer SiLU network of the time features, plus one learned vector per class.

    Most built-in networks start with it, so that a time embedding serves them all. Row `num_classes` of the
    table stands for "no label". Always float32.

    **Arguments:**

    - `embedding`: the time embedding, of one label.
    - `dim`: the size of what comes out.
    - `num_classes`: of the data; 0 where samples have no label.
    - `noise_labels`: times the network is told: 2 for a flow map.
    - `conditions`: names of the scalar conditions it is told.
    """

    embedding: AbstractTimeEmbedding
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    labels: Float[Array, "classes_and_none dim"] | None
    scalars: ScalarConditions
    end: SecondLabel | None

    def __init__(
        self,
        embedding: AbstractTimeEmbedding,
        dim: int,
        num_classes: int,
        *,
        noise_labels: int = 1,
        conditions: Collection[str] = (),
        key: Key,
    ) -> None:
        k_first, k_second, k_labels = jr.split(key, 3)
        self.embedding = embedding
        self.first = _linear(embedding.dim, dim, key=k_first)
        self.second = _linear(dim, dim, key=k_second)
        self.labels = jr.normal(k_labels, (num_classes + 1, dim)) if num_classes else None
        self.scalars = ScalarConditions(conditions, dim)
        self.end = SecondLabel(embedding.dim, dim) if noise_labels == 2 else None

    def __call__(self, c_noise: Float[Array, " k"], cond: Conditioning) -> Float[Array, " dim"]:
        """The embedding, passed through a last SiLU: ready for a modulation's linear layer."""
        hidden = self.first(self.embedding(c_noise[:1]))
        hidden = with_end(hidden, self.end, self.embedding, c_noise)
        emb = self.second(jax.nn.silu(hidden))
        row = class_row(cond, 0 if self.labels is None else self.labels.shape[0] - 1)
        if self.labels is not None:
            emb = emb + self.labels[row]
        return jax.nn.silu(emb + self.scalars(cond))


def _linear(in_: int, out: int, *, key: Key) -> eqx.nn.Linear:
    """A linear layer that keeps unit variance; equinox's own initialization has a third of it."""
    layer = eqx.nn.Linear(in_, out, key=key)
    weight = in_**-0.5 * jr.normal(key, (out, in_))
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(out)))
