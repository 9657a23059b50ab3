"""Computations that families of checks share: finite differences, jittered weights, batches by hand."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from scmkit.interfaces import AbstractNoiseProcess
from scmkit.testing.check import require, require_finite
from scmkit.types import Scalar

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
    # From numpy, which compiles nothing.
    rng = np.random.default_rng(7)
    noisy = jax.tree.map(
        lambda a: jnp.asarray(np.asarray(a) + scale * rng.normal(size=a.shape), a.dtype), arrays
    )
    return eqx.combine(noisy, static)


def central_difference(
    function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], h: float
) -> Any:
    """`(f(x + h v) - f(x - h v)) / 2h`, the derivative of `function` along `tangents`."""

    def moved(step: float) -> Any:
        shifted = jax.tree.map(lambda p, v: p + step * v, primals, tangents)
        return function(*shifted)

    return jax.tree.map(lambda a, b: (a - b) / (2 * h), moved(h), moved(-h))


def require_derivative_in_time(
    function: Callable[[Scalar], Array], t: Float[Array, " n"], what: str
) -> None:
    """Raises `AssertionError` unless the jvp of `function` agrees with finite differences at each `t`."""
    values, slopes = jax.vmap(lambda t: jax.jvp(function, (t,), (jnp.ones_like(t),)))(t)
    require_finite(slopes, f"the time derivative of {what}")
    h = 5e-3 * t
    # The step is the tangent, so that it can be another at each time.
    changes = jax.vmap(lambda t, h: central_difference(function, (t,), (h,), 1.0))(t, h)
    shape = (-1, *[1] * (values.ndim - 1))
    expected = changes / h.reshape(shape)
    rounding = 2e-6 * jnp.abs(values).max() / h.reshape(shape)
    excess = jnp.abs(slopes - expected) - (0.02 * jnp.abs(expected) + rounding)
    worst = int(excess.reshape(t.shape[0], -1).max(axis=1).argmax())
    require(
        excess.max() <= 0,
        f"the time derivative of {what} at t = {t[worst]:g} is {slopes[worst]}, finite differences "
        f"give {expected[worst]}",
    )


def one_by_one(function: Callable[..., Array], *arguments: Any) -> Float[Array, "n ..."]:
    """The result that `vmap` should give: `function` on each slice of the arguments' leading axes."""
    n = jax.tree.leaves(arguments)[0].shape[0]
    return jnp.stack([function(*jax.tree.map(lambda a, i=i: a[i], arguments)) for i in range(n)])


def arrays_of(module: PyTree) -> list[Array]:
    """The inexact arrays of a module, which are trained."""
    return jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array))
