"""Checks of time embeddings."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractTimeEmbedding
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import central_difference, one_by_one
from scmkit.testing.workbench import Bench, Case


@dataclass(frozen=True)
class Embedding:
    """A time embedding, and noise labels for it: each row is one vector of labels."""

    embed: AbstractTimeEmbedding
    labels: Float[Array, "n k"]


def features_are_float32_of_size_dim(given: Embedding) -> None:
    out = given.embed(given.labels[0])
    require(
        out.shape == (given.embed.dim,) and out.dtype == jnp.float32,
        f"features must be float32 of shape (dim,) = ({given.embed.dim},), "
        f"not {out.dtype} of shape {out.shape}",
    )
    require_finite(jax.vmap(given.embed)(given.labels), "the features")


def features_have_about_unit_variance(given: Embedding) -> None:
    rms = float(jnp.sqrt(jnp.mean(jax.vmap(given.embed)(given.labels) ** 2)))
    require(0.3 < rms < 3, f"features should have an RMS of about 1, not {rms:g}")


def features_tell_times_apart(given: Embedding) -> None:
    features = np.asarray(jax.vmap(given.embed)(given.labels))
    for i in range(given.labels.shape[1]):
        moved = given.labels.at[:, i].add(0.3)
        gap = np.abs(np.asarray(jax.vmap(given.embed)(moved)) - features).max()
        require(gap > 1e-4, f"features do not change with noise label {i}")


def derivative_is_finite_and_right(given: Embedding) -> None:
    direction = jr.normal(jr.key(1), given.labels.shape)

    def along(labels: Float[Array, "n k"]) -> Float[Array, "n dim"]:
        return jax.vmap(given.embed)(labels)

    slope = jax.jvp(along, (given.labels,), (direction,))[1]
    require_finite(slope, "the derivative of the features")
    expected = central_difference(along, (given.labels,), (direction,), 1e-3)
    require_close(slope, expected, "the derivative of the features", tolerance=2e-2)


def vmap_is_a_loop(given: Embedding) -> None:
    require_close(
        jax.jit(jax.vmap(given.embed))(given.labels),
        one_by_one(given.embed, given.labels),
        "the embedding under jit and vmap",
    )


def arrange(bench: Bench) -> Embedding:
    k = bench.case.noise_labels
    return Embedding(bench.build(Slot.embedding), jnp.linspace(0.05, 1.5, 4 * k).reshape(4, k))


FAMILY = Family(
    arrange,
    (
        features_are_float32_of_size_dim,
        features_have_about_unit_variance,
        features_tell_times_apart,
        derivative_is_finite_and_right,
        vmap_is_a_loop,
    ),
    (Case(),),
)
