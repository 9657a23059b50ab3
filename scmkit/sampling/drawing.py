"""Drawing many samples."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from scmkit.assembly import build_free
from scmkit.errors import UsageError
from scmkit.interfaces import AbstractSampler, Conditioning, DataSpec, SamplerOutput
from scmkit.model import AbstractModel
from scmkit.plugin import Slot
from scmkit.types import Key, Keys

BATCH = 512
"""Samples drawn at once."""


@eqx.filter_jit
def _draw(
    model: AbstractModel,
    sampler: AbstractSampler,
    noise: Float[Array, "n *shape"],
    cond: Conditioning | None,
    steps: int,
    keys: Keys,
) -> SamplerOutput:
    def one(noise: Array, cond: Conditioning | None, key: Key) -> SamplerOutput:
        out = sampler(model, noise, cond, steps=steps, key=key)
        # Samplers count calls of the model; -1 is "not counted".
        counted = jnp.where(out.nfe > 0, model.evaluations * out.nfe, out.nfe)
        return SamplerOutput(out.x, counted)

    return jax.vmap(one)(noise, cond, keys)


def draw(
    model: AbstractModel,
    sampler: AbstractSampler,
    noise: Float[Array, "n *shape"],
    cond: Conditioning | None,
    *,
    steps: int,
    key: Key,
) -> SamplerOutput:
    """The samples that given noise leads to, in the model's units, a batch of `BATCH` at a time."""
    keys = jr.split(key, noise.shape[0])
    parts = [
        _draw(model, sampler, some, given, steps, key)
        for some, given, key in _batches((noise, cond, keys), noise.shape[0])
    ]
    return jax.tree.map(lambda *a: jnp.concatenate(a)[: noise.shape[0]], *parts)


def draw_batches(
    model: AbstractModel,
    sampler: AbstractSampler,
    data: DataSpec,
    n: int,
    cond: Conditioning | None,
    *,
    steps: int,
    noise_key: Key,
    key: Key,
) -> Iterator[SamplerOutput]:
    """What `draw` gives for `prior(model, data, n, key=noise_key)`, a batch of `BATCH` at a time."""
    keys, left = (jr.split(noise_key, n), cond, jr.split(key, n)), n
    for some, given, own in _batches(keys, n):
        out = _draw(model, sampler, _prior(model, data, some), given, steps, own)
        yield jax.tree.map(lambda a, stop=left: a[:stop], out)
        left -= len(own)


def _batches(trees: Any, n: int) -> Iterator[Any]:
    """Slices of `BATCH` along the leading axis of all leaves, of length `n`."""
    size = min(BATCH, n)
    # Padding the last batch keeps its shape, so that it needs no compilation of its own.
    pad = -n % size
    padded = jax.tree.map(lambda a: jnp.concatenate([a, a[:pad]]), trees)
    for start in range(0, n + pad, size):
        yield jax.tree.map(lambda a, i=start: a[i : i + size], padded)


def prior(model: AbstractModel, data: DataSpec, n: int, *, key: Key) -> Float[Array, "n *shape"]:
    """`n` draws of the process's prior."""
    return _prior(model, data, jr.split(key, n))


def _prior(model: AbstractModel, data: DataSpec, keys: Keys) -> Float[Array, "n *shape"]:
    return jax.vmap(lambda k: model.process.prior(data.shape, key=k))(keys)


def conditioning(data: DataSpec, n: int, *, label: int | None = None) -> Conditioning | None:
    """`n` labels: all `label`, or every class in turn; None without classes.

    Raises `UsageError` for a label the data does not have.
    """
    if data.num_classes == 0:
        if label is not None:
            raise UsageError(f"class {label}: this data has no classes")
        return None
    if label is None:
        return Conditioning(jnp.arange(n, dtype=jnp.int32) % data.num_classes)
    if not 0 <= label < data.num_classes:
        raise UsageError(f"class {label}: this data has classes 0 to {data.num_classes - 1}")
    return Conditioning(jnp.full(n, label, jnp.int32))


def with_guidance(cond: Conditioning | None, n: int, guidance: float | None) -> Conditioning | None:
    """`n` conditionings with a guidance strength; as they are where none is given."""
    if guidance is None:
        return cond
    label = None if cond is None else cond.label
    return Conditioning(label, jnp.full(n, guidance, jnp.float32))


def sample(
    model: AbstractModel,
    data: DataSpec,
    n: int,
    sampler: AbstractSampler | str = "consistency",
    *,
    steps: int = 1,
    labels: Int[np.ndarray, " n"] | int | None = None,
    guidance: float | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "n *shape"]:
    """`n` samples in the data's own units.

    `sampler` is one, or the name of a plugin with its default options. `labels` is one class for
    all, one per sample, or None for classes in turn. `guidance` is a strength, for a `Guided` model or one
    distilled from guided teachers. The same seed gives the same noise for every sampler and number of
    steps.
    """
    named = isinstance(sampler, str)
    method: AbstractSampler = build_free(Slot.sampler, sampler, {}) if named else sampler
    k_noise, k_sampler = jr.split(jr.key(seed))
    if isinstance(labels, np.ndarray):
        cond = Conditioning(jnp.asarray(labels, jnp.int32))
    else:
        cond = conditioning(data, n, label=labels)
    cond = with_guidance(cond, n, guidance)
    noise = prior(model, data, n, key=k_noise)
    out = draw(model, method, noise, cond, steps=steps, key=k_sampler)
    return data.denormalise(np.asarray(out.x))
