"""Drawing many samples."""

from collections.abc import Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from scmkit.arguments import as_count, as_labels, as_seed, as_strength
from scmkit.composing.blame import blaming
from scmkit.composing.build import build_free
from scmkit.composing.conformity import checked, expect_array, expect_kind
from scmkit.distribution.spread import Spread
from scmkit.errors import UsageError
from scmkit.interfaces import (
    UNCONDITIONED,
    AbstractModel,
    AbstractSampler,
    Conditioning,
    DataSpec,
    SamplerOutput,
)
from scmkit.plugin import Slot
from scmkit.sampling.batches import each_batch, in_batches
from scmkit.types import Key, Keys

BATCH = 512
"""Samples drawn at once."""


_SPREAD = Spread()


@eqx.filter_jit
def _draw(
    shared: tuple[AbstractModel, AbstractSampler, int | Int[Array, ""]],
    noise: Float[Array, "n *shape"],
    cond: Conditioning,
    keys: Keys,
) -> SamplerOutput:
    return _SPREAD.each(_drawn)(shared, noise, cond, keys)


def _drawn(
    shared: tuple[AbstractModel, AbstractSampler, int | Int[Array, ""]],
    noise: Float[Array, "n *shape"],
    cond: Conditioning,
    keys: Keys,
) -> SamplerOutput:
    model, sampler, steps = shared

    def one(noise: Array, cond: Conditioning, key: Key) -> SamplerOutput:
        out = sampler(checked(model), noise, cond, steps=steps, key=key)
        expect_kind(sampler, "sampler", out, SamplerOutput)
        expect_array(sampler, "sampler", out.x, noise.shape, noise.dtype)
        expect_array(sampler, "sampler as 'nfe'", out.nfe, (), jnp.integer)
        # Samplers count calls of the model; -1 is "not counted".
        counted = jnp.where(out.nfe > 0, model.evaluations * out.nfe, out.nfe)
        return SamplerOutput(out.x, counted)

    return jax.vmap(one)(noise, cond, keys)


def steps_for(sampler: AbstractSampler, steps: int) -> int | Int[Array, ""]:
    """`steps` as a sampler takes it: traced, where one program serves all numbers; for `filter_jit`.

    Raises `UsageError` for less than one step.
    """
    steps = as_count(steps, "steps")
    return jnp.asarray(steps, jnp.int32) if sampler.traces_steps else steps


@blaming()
def draw(
    model: AbstractModel,
    sampler: AbstractSampler,
    noise: Float[Array, "n *shape"],
    cond: Conditioning,
    *,
    steps: int,
    key: Key,
) -> SamplerOutput:
    """The samples that the given noise leads to, in the model's units, `BATCH` at a time on each device.

    Several processes draw together, and each gets all samples. Samplers with `traces_steps` are compiled once
    for all numbers of steps. Raises `UsageError` for less than one step, and for conditions of another number
    of samples.
    """
    shared = _SPREAD.shared((model, sampler, steps_for(sampler, steps)))
    _expect_each(cond, noise.shape[0])
    keys = jr.split(key, noise.shape[0])

    def some(noise: Array, cond: Conditioning, keys: Keys) -> SamplerOutput:
        return _SPREAD.joined(_draw(shared, *_SPREAD.divided((noise, cond, keys))))

    return in_batches(some, (noise, cond, keys), BATCH, devices=_SPREAD.devices)


def draw_batches(
    model: AbstractModel,
    sampler: AbstractSampler,
    data: DataSpec,
    n: int,
    cond: Conditioning,
    *,
    steps: int,
    noise_key: Key,
    key: Key,
) -> Iterator[SamplerOutput]:
    """What `draw` gives for `prior(model, data, n, key=noise_key)`, a batch of `BATCH` at a time."""
    shared = _SPREAD.shared((model, sampler, steps_for(sampler, steps)))
    _expect_each(cond, n)

    def some(noise_keys: Keys, cond: Conditioning, keys: Keys) -> SamplerOutput:
        given = (_prior(model, data, noise_keys), cond, keys)
        return _SPREAD.joined(_draw(shared, *_SPREAD.divided(given)))

    args = (jr.split(noise_key, n), cond, jr.split(key, n))
    return each_batch(some, args, BATCH, devices=_SPREAD.devices)


def _expect_each(cond: Conditioning, n: int) -> None:
    for leaf in jax.tree.leaves(cond):
        if jnp.shape(leaf) != (n,):
            raise UsageError(
                f"conditions of shape {jnp.shape(leaf)}: give one for each of {n} samples"
            )


def prior(model: AbstractModel, data: DataSpec, n: int, *, key: Key) -> Float[Array, "n *shape"]:
    """`n` draws of the process's prior."""
    return _prior(model, data, jr.split(key, n))


def _prior(model: AbstractModel, data: DataSpec, keys: Keys) -> Float[Array, "n *shape"]:
    return jax.vmap(lambda k: model.process.prior(data.shape, key=k))(keys)


def conditioning(data: DataSpec, n: int, *, label: int | None = None) -> Conditioning:
    """`n` labels: all `label`, or every class in turn; none without classes.

    Raises `UsageError` for a label the data does not have.
    """
    if label is not None:
        return Conditioning(jnp.asarray(as_labels(label, data, n)))
    if data.num_classes == 0:
        return UNCONDITIONED
    return Conditioning(jnp.arange(n, dtype=jnp.int32) % data.num_classes)


def with_guidance(cond: Conditioning, n: int, guidance: float | None) -> Conditioning:
    """`n` conditionings with a guidance strength; as they are where none is given.

    Raises `UsageError` for a strength that is negative or not finite.
    """
    if guidance is None:
        return cond
    guidance = as_strength(guidance)
    return Conditioning(cond.label, {"guidance": jnp.full(n, guidance, jnp.float32)})


@blaming()
def sample(
    model: AbstractModel,
    data: DataSpec,
    n: int,
    sampler: AbstractSampler | str = "consistency",
    *,
    steps: int = 1,
    labels: ArrayLike | Sequence[int] | None = None,
    guidance: float | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "n *shape"]:
    """`n` samples in the data's own units.

    `sampler` is one, or the name of a plugin with its default options. `labels` is one class for
    all, one per sample, or None for classes in turn. `guidance` is a strength, for a `Guided` model or one
    distilled from guided teachers. The same seed gives the same noise for every sampler and number of
    steps.

    Raises `UsageError` for what is not a class, number, seed or strength.
    """
    n = as_count(n, "n")
    named = isinstance(sampler, str)
    method: AbstractSampler = build_free(Slot.sampler, sampler, {}) if named else sampler
    k_noise, k_sampler = jr.split(jr.key(as_seed(seed)))
    if labels is None:
        cond = conditioning(data, n)
    else:
        cond = Conditioning(jnp.asarray(as_labels(labels, data, n)))
    cond = with_guidance(cond, n, guidance)
    noise = prior(model, data, n, key=k_noise)
    out = draw(model, method, noise, cond, steps=steps, key=k_sampler)
    return data.denormalize(np.asarray(out.x))
