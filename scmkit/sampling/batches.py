"""Many samples, a batch at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def each_batch(
    f: Callable[..., Any], args: tuple[PyTree[Array], ...], size: int, *, devices: int = 1
) -> Iterator[PyTree[Array]]:
    """`f(*args)` of so many samples for each device after another, where all arrays have a leading axis."""
    n = jax.tree.leaves(args)[0].shape[0]
    size = devices * min(size, -(-n // devices))
    # Padding the last batch keeps its shape, so that it needs no compilation of its own.
    pad = -n % size
    again = jnp.arange(pad) % n
    padded = jax.tree.map(lambda a: jnp.concatenate([a, a[again]]), args)
    for start in range(0, n + pad, size):
        part = f(*jax.tree.map(lambda a, i=start: a[i : i + size], padded))
        yield jax.tree.map(lambda a, left=n - start: a[:left], part)


def in_batches(
    f: Callable[..., Any],
    args: tuple[PyTree[Array], ...],
    size: int,
    done: Callable[[int], object] | None = None,
    *,
    devices: int = 1,
) -> PyTree[Array]:
    """All that `each_batch` gives, joined; after each batch `done` is called with its number of samples."""
    parts = []
    for part in each_batch(f, args, size, devices=devices):
        parts.append(part)
        if done is not None:
            done(jax.tree.leaves(jax.block_until_ready(part))[0].shape[0])
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
