"""Checks of distances."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractDistance
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import central_difference
from scmkit.testing.workbench import Bench, Case

N = 8


class Apart:
    """A distance, and `N` pairs of samples to compare by it."""

    def __init__(self, bench: Bench) -> None:
        self.distance: AbstractDistance = bench.build(Slot.distance)
        self.x, far = bench.data.sigma_data * jr.normal(jr.key(0), (2, N, *bench.data.shape))
        # Every value differs by more than the steps of finite differences, which kinks would spoil.
        self.y = self.x + far + jnp.sign(far) * bench.data.sigma_data

    def between(
        self, x: Float[Array, "n *shape"], y: Float[Array, "n *shape"]
    ) -> Float[Array, " n"]:
        """The distances of pairs, under `jit` and `vmap` as training takes them."""
        return _distances(self.distance, x, y)

    def gradient(
        self, x: Float[Array, "n *shape"], y: Float[Array, "n *shape"]
    ) -> Float[Array, "n *shape"]:
        """The gradients of the distances of pairs, in the first of each."""
        return _gradients(self.distance, x, y)


# The distance is an argument: the arrays of a large one are no constants to fold.
@eqx.filter_jit
def _distances(
    distance: AbstractDistance, x: Float[Array, "n *shape"], y: Float[Array, "n *shape"]
) -> Float[Array, " n"]:
    return jax.vmap(distance)(x, y)


@eqx.filter_jit
def _gradients(
    distance: AbstractDistance, x: Float[Array, "n *shape"], y: Float[Array, "n *shape"]
) -> Float[Array, "n *shape"]:
    return jax.vmap(jax.grad(distance))(x, y)


def distances_are_float32_scalars(given: Apart) -> None:
    d = given.distance(given.x[0], given.y[0])
    require(
        isinstance(d, Array) and d.shape == () and d.dtype == jnp.float32,
        f"a distance must be a float32 scalar, not {getattr(d, 'dtype', type(d).__name__)} of shape "
        f"{getattr(d, 'shape', ())}",
    )


def distances_are_not_negative(given: Apart) -> None:
    d = given.between(given.x, given.y)
    require_finite(d, f"the distances of {N} pairs")
    require(d.min() >= 0, f"a distance must not be negative, but one is {d.min():g}")
    require(d.max() > 0, f"the distances of all {N} pairs of different samples are 0")


def equal_samples_are_no_distance_apart(given: Apart) -> None:
    d = jnp.abs(given.between(given.x, given.x)).max()
    largest = jnp.abs(given.between(given.x, given.y)).max()
    require(d <= 1e-6 * largest, f"a sample is {d:g} away from itself, which must be 0")
    require_finite(
        given.gradient(given.x, given.x), "the gradient of the distance where samples are equal"
    )


def the_order_of_two_samples_is_nothing(given: Apart) -> None:
    there, back = given.between(given.x, given.y), given.between(given.y, given.x)
    require_close(back, there, "the distance of y and x, against that of x and y,", tolerance=1e-4)


def gradients_are_right(given: Apart) -> None:
    along = jr.normal(jr.key(1), given.x.shape)
    slopes = jnp.sum((given.gradient(given.x, given.y) * along).reshape(N, -1), axis=1)
    h = 1e-2 / math.sqrt(given.x[0].size)
    expected = central_difference(lambda x: given.between(x, given.y), (given.x,), (along,), h)
    require_close(
        slopes,
        expected,
        "the gradient of the distance, against finite differences,",
        tolerance=0.02,
    )


FAMILY = Family(
    Apart,
    (
        distances_are_float32_scalars,
        distances_are_not_negative,
        equal_samples_are_no_distance_apart,
        the_order_of_two_samples_is_nothing,
        gradients_are_right,
    ),
    (Case("vector"), Case("image", shape=(3, 8, 8))),
)
