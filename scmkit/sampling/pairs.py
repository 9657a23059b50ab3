"""Pairs of noise and sample along a model's paths, drawn into a store that training reads."""

import os
from collections.abc import Callable, Iterator
from itertools import count

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from scmkit.arguments import as_count, as_seed
from scmkit.composing.blame import blaming
from scmkit.data import Store, StoreWriter
from scmkit.data.layout import PairsRecord
from scmkit.errors import UsageError
from scmkit.interfaces import (
    AbstractDataset,
    AbstractModel,
    AbstractPathSampler,
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
    - `sampler`: as the `record` names it, in the record's number of steps, with its seed and guidance. Where
        the record has times, it is one whose `path` has them, and its states there are kept, too.
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
        licences=dataset.licences,
    ) as writer:
        done, size = 0, min(n, BATCH)
        for i in count():
            # Whole batches, so that a sampler is compiled for one size only.
            k_noise, k_sampler = jr.split(jr.fold_in(key, i))
            labels = None if known is None else rng.choice(known, BATCH)[:size]
            noise = prior(model, data, BATCH, key=k_noise)[:size]
            cond = Conditioning(None if labels is None else jnp.asarray(labels))
            cond = with_guidance(cond, size, record.guidance)
            here, path = min(size, n - done), None
            if record.times and isinstance(sampler, AbstractPathSampler):
                states = _paths(model, sampler, noise, cond, record.steps, len(record.times) + 1)
                x, path = states[:, -1], _signals(model, data, states[:, :-1], record.times)[:here]
            else:
                x = draw(model, sampler, noise, cond, steps=record.steps, key=k_sampler).x
            writer.append(
                "train",
                np.asarray(data.denormalize(np.asarray(x)), np.float32)[:here],
                None if labels is None else labels[:here],
                np.asarray(noise / record.noise_std, np.float32)[:here],
                path,
            )
            done += here
            progress(done, n)
            if done == n:
                break
        for samples, labels in _blocks(dataset):
            writer.append("test", samples, labels)
    return Store(dest)


def times_of(
    sampler: AbstractSampler, name: str, model: AbstractModel, steps: int, times: int
) -> tuple[float, ...]:
    """The noise-to-signal ratios of the states that a trajectory of `times` times has before its end.

    Raises `UsageError` for a sampler that tells no states, and for steps that do not divide into the times.
    """
    if not isinstance(sampler, AbstractPathSampler):
        raise UsageError(
            f"the sampler '{name}' does not tell the states on its way: name one that does, such as "
            "--sampler pf-ode"
        )
    if steps % times:
        raise UsageError(
            f"{steps} steps do not divide into {times} times: set --steps to a multiple of {times}"
        )
    return tuple(float(ratio) for ratio in sampler.ratios(model, times)[:-1])


@eqx.filter_jit
def _paths(
    model: AbstractModel,
    sampler: AbstractPathSampler,
    noise: Float[Array, "n *shape"],
    cond: Conditioning,
    steps: int,
    times: int,
) -> Float[Array, "n times *shape"]:
    def one(noise: Array, cond: Conditioning) -> Array:
        return sampler.path(model, noise, cond, steps=steps, times=times)

    return jax.vmap(one)(noise, cond)


def _signals(
    model: AbstractModel, data: DataSpec, states: Array, ratios: tuple[float, ...]
) -> Float[np.ndarray, "n times *shape"]:
    """States divided by the process's `alpha`, in the data's units."""
    times = jax.vmap(model.process.time_at)(jnp.asarray(ratios))
    alpha = np.asarray(jax.vmap(model.process.alpha)(times)).reshape(-1, *[1] * len(data.shape))
    return np.asarray(data.unscaled(np.asarray(states) / alpha), np.float32)


def _blocks(
    dataset: AbstractDataset,
) -> Iterator[tuple[Float[np.ndarray, "n *shape"], Int[np.ndarray, " n"] | None]]:
    """The test split, some samples at a time."""
    size = dataset.size("test")
    for start in range(0, size, _ROWS):
        yield dataset.read("test", np.arange(start, min(start + _ROWS, size)))
