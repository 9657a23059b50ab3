"""What several families of checks compute: finite differences, jittered weights, batches by hand."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PyTree

from scmkit.interfaces import AbstractNoiseProcess

M = TypeVar("M")


def ratios(process: AbstractNoiseProcess, n: int = 25) -> Float[Array, " n"]:
    """Noise-to-signal ratios from 1e-3 to the process's largest, equally spaced in the logarithm."""
    return jnp.geomspace(1e-3, process.ratio_max, n, dtype=jnp.float32)


def times(process: AbstractNoiseProcess, n: int = 25) -> Float[Array, " n"]:
    """The times of `ratios`, from almost clean data to the prior."""
    return jax.vmap(process.time_at)(ratios(process, n))


def jittered(module: M, scale: float = 0.1) -> M:
    """`module` with noise on its weights, so that layers that start at zero are heard."""
    arrays, static = eqx.partition(module, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(arrays)
    keys = jr.split(jr.key(7), max(len(leaves), 1))
    noisy = [a + scale * jr.normal(k, a.shape, a.dtype) for a, k in zip(leaves, keys, strict=False)]
    return eqx.combine(jax.tree.unflatten(tree, noisy), static)


def central_difference(
    function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], h: float
) -> Any:
    """`(f(x + h v) - f(x - h v)) / 2h`, the derivative of `function` along `tangents`."""

    def moved(step: float) -> Any:
        shifted = jax.tree.map(lambda p, v: p + step * v, primals, tangents)
        return function(*shifted)

    return jax.tree.map(lambda a, b: (a - b) / (2 * h), moved(h), moved(-h))


def one_by_one(function: Callable[..., Array], *arguments: Any) -> Float[Array, "n ..."]:
    """What `vmap` should give: `function` on each slice of the arguments' leading axes."""
    n = jax.tree.leaves(arguments)[0].shape[0]
    return jnp.stack([function(*jax.tree.map(lambda a, i=i: a[i], arguments)) for i in range(n)])


def arrays_of(module: PyTree) -> list[Array]:
    """The inexact arrays of a module: what is trained."""
    return jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array))
