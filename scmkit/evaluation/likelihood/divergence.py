"""The divergence of a vector field, one direction at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

AT_ONCE = 1 << 14
"""Values in the directions that are taken at once: what bounds the memory."""


def along_directions(
    field: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]],
    x: Float[Array, "*shape"],
    directions: Float[Array, "k *shape"] | None,
) -> tuple[Float[Array, "*shape"], Float[Array, " k"]]:
    r"""`field(x)`, and $v^\top J v$ for each direction $v$ with $J$ the Jacobian of `field` at `x`.

    For directions with $E[v v^\top] = I$ each is an unbiased estimate of the divergence (Hutchinson; arXiv
    1810.01367, Section 3.1). None stands for the coordinate axes, whose sum is the divergence.
    The primal pass is shared by all directions.
    """
    value, push = jax.linearize(field, x)
    count = x.size if directions is None else directions.shape[0]

    def form(i: Array) -> Float[Array, ""]:
        if directions is None:
            axis = jnp.zeros(x.size, x.dtype).at[i].set(1).reshape(x.shape)
            return push(axis).reshape(-1)[i]
        return jnp.sum(directions[i] * push(directions[i]))

    chunk = min(count, max(1, AT_ONCE // x.size))
    return value, jax.lax.map(form, jnp.arange(count), batch_size=chunk)
