"""Pairs of noise and sample along a model's paths, drawn into a store that training reads."""

import os
from collections.abc import Callable, Iterator
from itertools import count

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from scmkit.arguments import as_count, as_seed
from scmkit.composing.blame import blaming
from scmkit.data import Store, StoreWriter
from scmkit.data.layout import PairsRecord
from scmkit.errors import UsageError
from scmkit.interfaces import (
    AbstractDataset,
    AbstractModel,
    AbstractSampler,
    Conditioning,
    DataSpec,
)
from scmkit.sampling.drawing import BATCH, draw, prior, with_guidance

_ROWS = 1024
"""Samples of the test split that are copied at once."""


@blaming()
def write_pairs(
    dest: str | os.PathLike[str],
    model: AbstractModel,
    data: DataSpec,
    dataset: AbstractDataset,
    n: int,
    sampler: AbstractSampler,
    record: PairsRecord,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Store:
    """A new store at `dest` of `n` training samples, each drawn from the noise that is kept with it.

    **Arguments:**

    - `model`, `data`: what draws, and a description of its data.
    - `dataset`: the data itself: labels are drawn from those of its train split, and its test split becomes
        the store's, so that what learns from the pairs is held against real samples.
    - `sampler`: as the `record` names it, in the record's number of steps, with its seed and guidance.
    - `progress`: called with the number of pairs so far and that of all.

    A smaller `n` gives the first of a larger one's pairs. Raises `UsageError` for a sampler that adds fresh
    noise on the way, and `DataError` where something is at `dest` already, or the store cannot be written.
    """
    n = as_count(n, "n")
    key, rng = jr.key(as_seed(record.seed)), np.random.default_rng(record.seed)
    if not sampler.deterministic(record.steps):
        raise UsageError(
            f"the sampler '{record.sampler}' adds fresh noise on its way, so that its samples belong to no "
            "noise: name one that does not, such as --sampler pf-ode"
        )
    known = dataset.labels("train")
    with StoreWriter(
        dest,
        shape=data.shape,
        dtype="float32",
        num_classes=data.num_classes,
        class_names=data.class_names or dataset.class_names,
        pairs=record,
    ) as writer:
        done, size = 0, min(n, BATCH)
        for i in count():
            # Whole batches, so that a sampler is compiled for one size only.
            k_noise, k_sampler = jr.split(jr.fold_in(key, i))
            labels = None if known is None else rng.choice(known, BATCH)[:size]
            noise = prior(model, data, BATCH, key=k_noise)[:size]
            cond = Conditioning(None if labels is None else jnp.asarray(labels))
            cond = with_guidance(cond, size, record.guidance)
            out = draw(model, sampler, noise, cond, steps=record.steps, key=k_sampler)
            here = min(size, n - done)
            writer.append(
                "train",
                np.asarray(data.denormalize(np.asarray(out.x)), np.float32)[:here],
                None if labels is None else labels[:here],
                np.asarray(noise / record.noise_std, np.float32)[:here],
            )
            done += here
            progress(done, n)
            if done == n:
                break
        for samples, labels in _blocks(dataset):
            writer.append("test", samples, labels)
    return Store(dest)


def _blocks(
    dataset: AbstractDataset,
) -> Iterator[tuple[Float[np.ndarray, "n *shape"], Int[np.ndarray, " n"] | None]]:
    """The test split, some samples at a time."""
    size = dataset.size("test")
    for start in range(0, size, _ROWS):
        yield dataset.read("test", np.arange(start, min(start + _ROWS, size)))
