"""The derivative of a network along a path: exact, by differences, or half and half."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.types import Scalar

Derivative = Literal["jvp", "semi-continuous", "central"]
"""Forward mode; forward mode in `x` with a backward difference in `t` (arXiv 2510.08431, Section 3.3); or a
central difference along the path, which needs no forward mode at all."""


def derivative_along(
    f: Callable[[Float[Array, "*shape"], Scalar], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    t: Scalar,
    dx: Float[Array, "*shape"],
    scale: Scalar,
    *,
    kind: Derivative = "jvp",
    gap: Scalar | float = 1e-3,
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""`f(x, t)`, and $c\,(\partial_x f \cdot \dot x + \partial_t f)$ with $c$ the `scale`.

    `scale` is pushed into the tangents, so that nothing overflows where `f` turns fast
    (arXiv 2410.11081, Section 5.1). `gap` is the step in `t` of the differences.
    """
    if kind == "jvp":
        return eqx.filter_jvp(f, (x, t), (scale * dx, scale * jnp.ones_like(t)))
    if kind == "semi-continuous":
        here, along_x = eqx.filter_jvp(lambda x: f(x, t), (x,), (scale * dx,))
        return here, along_x + scale * (here - f(x, t - gap)) / gap
    after, before = f(x + gap * dx, t + gap), f(x - gap * dx, t - gap)
    return f(x, t), scale * (after - before) / (2 * gap)
