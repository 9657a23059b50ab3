"""Many samples, a batch at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def in_batches(
    f: Callable[..., Any],
    args: tuple[PyTree[Array], ...],
    size: int,
    done: Callable[[int], object] | None = None,
) -> PyTree[Array]:
    """`f(*args)` where all arrays have a leading axis of samples, `size` of them at a time.

    `done` is told after each batch how many samples it was.
    """
    n = jax.tree.leaves(args)[0].shape[0]
    size = min(size, n)
    # Padding the last batch keeps its shape, so that it needs no compilation of its own.
    pad = -n % size
    padded = jax.tree.map(lambda a: jnp.concatenate([a, a[:pad]]), args)
    parts = []
    for start in range(0, n + pad, size):
        part = f(*jax.tree.map(lambda a, i=start: a[i : i + size], padded))
        parts.append(part)
        if done is not None:
            jax.block_until_ready(part)
            done(min(size, n - start))
    return jax.tree.map(lambda *a: jnp.concatenate(a)[:n], *parts)
