"""Checks of what a training remembers of its data, before the losses that look at it are checked."""

import equinox as eqx

from scmkit.interfaces import AbstractMemory, Sample
from scmkit.testing.check import require


def remembered(name: str, memory: object, batch: Sample) -> AbstractMemory:
    """A memory after a batch, which is held to the interface."""
    require(
        isinstance(memory, AbstractMemory),
        f"memory '{name}' must be an AbstractMemory, not a {type(memory).__name__}",
    )
    remember = eqx.filter_jit(lambda memory, batch: memory.remember(batch))
    after, again = remember(memory, batch), remember(memory, batch)
    shapes = [eqx.filter_eval_shape(lambda m=m: m) for m in (memory, after)]
    require(
        eqx.tree_equal(*shapes),
        f"memory '{name}': remembering must leave structure, shapes and dtypes as they are",
    )
    require(eqx.tree_equal(after, again), f"memory '{name}': one batch must leave one memory")
    require(not eqx.tree_equal(after, memory), f"memory '{name}' does not remember a batch")
    return after
