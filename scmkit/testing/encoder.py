"""Checks of encoders."""

import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractEncoder
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import central_difference
from scmkit.testing.workbench import Bench, Case

N = 4


class Encoding:
    """An encoder, and `N` samples to look at through it."""

    def __init__(self, bench: Bench) -> None:
        self.encoder: AbstractEncoder = bench.build(Slot.encoder)
        self.x = bench.data.sigma_data * jr.normal(jr.key(0), (N, *bench.data.shape))
        self.layers = _layers(self.encoder, self.x)


# The encoder is an argument: the arrays of a large one are no constants to fold.
@eqx.filter_jit
def _layers(encoder: AbstractEncoder, x: Float[Array, "n *shape"]) -> Any:
    return jax.vmap(encoder)(x)


@eqx.filter_jit
def _squares(encoder: AbstractEncoder, x: Float[Array, "n *shape"]) -> Float[Array, " n"]:
    layers = jax.vmap(encoder)(x)
    return sum((jnp.mean(a.reshape(N, -1) ** 2, axis=1) for a in layers), jnp.zeros(N))


@eqx.filter_jit
def _derivatives(
    encoder: AbstractEncoder, x: Float[Array, "n *shape"], along: Float[Array, "n *shape"]
) -> tuple[Float[Array, " n"], Float[Array, "n *shape"]]:
    """The slopes of the mean squares of the features along a direction, and their gradients."""
    squares = partial(_squares, encoder)
    slopes = jax.jvp(squares, (x,), (along,))[1]
    return slopes, jax.grad(lambda x: jnp.sum(squares(x)))(x)


def layers_are_float32_arrays(given: Encoding) -> None:
    layers = given.encoder(given.x[0])
    require(
        isinstance(layers, tuple) and layers,
        f"an encoder must return a tuple of layers, not {type(layers).__name__} {layers!r:.40}",
    )
    for layer in layers:
        require(
            isinstance(layer, Array) and layer.ndim > 0 and layer.dtype == jnp.float32,
            f"a layer must be a float32 array with channels last, not "
            f"{getattr(layer, 'dtype', type(layer).__name__)} of shape {getattr(layer, 'shape', ())}",
        )
        require_finite(layer, "a layer")


def samples_are_told_apart(given: Encoding) -> None:
    for i, layer in enumerate(given.layers):
        require(jnp.any(layer[0] != layer[1]), f"layer {i} is the same for two samples")


def one_sample_is_as_in_a_batch(given: Encoding) -> None:
    for alone, together in zip(given.encoder(given.x[0]), given.layers, strict=True):
        require_close(together[0], alone, "a layer of a sample in a batch", tolerance=1e-4)


def gradients_are_right(given: Encoding) -> None:
    along = jr.normal(jr.key(1), given.x.shape)
    slopes, back = _derivatives(given.encoder, given.x, along)
    require_finite(back, "the gradient of the features")
    require_close(
        jnp.sum((back * along).reshape(N, -1), axis=1),
        slopes,
        "the gradient of the features backwards, against forwards,",
    )
    # Deep networks have kinks everywhere, which longer steps would cross by the hundred.
    h = 1e-3 / math.sqrt(given.x[0].size)
    expected = central_difference(partial(_squares, given.encoder), (given.x,), (along,), h)
    require_close(
        slopes,
        expected,
        "the gradient of the features, against finite differences,",
        tolerance=0.05,
    )


FAMILY = Family(
    Encoding,
    (
        layers_are_float32_arrays,
        samples_are_told_apart,
        one_sample_is_as_in_a_batch,
        gradients_are_right,
    ),
    (Case("vector"), Case("image", shape=(3, 8, 8))),
)
