r"""The Lagrangian kernel: how the end of a jump moves while `s` does.

$\partial_s G(x_t, t, s) = v(G, s)$ characterizes the flow map (arXiv 2511.19797; arXiv 2406.07507).
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractModel, Point
from scmkit.types import Key, Scalar


def lagrangian(
    model: AbstractModel, point: Point, s: Scalar, *, key: Key | None = None
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    r"""$G(x_t, t, s)$ and $\partial_s G$, both with their gradients."""
    return eqx.filter_jvp(
        lambda s: model.jump(point.x_t, point.t, s, point.cond, key=key), (s,), (jnp.ones_like(s),)
    )
