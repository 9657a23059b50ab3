"""Editing many samples, in the data's units."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from scmkit.arguments import as_count, as_labels, as_samples, as_seed
from scmkit.composing.blame import blaming
from scmkit.editing.latents import decode, decode_at_once, encode, interpolate
from scmkit.editing.projections import Projection
from scmkit.editing.zero_shot import edit, edit_times
from scmkit.errors import UsageError
from scmkit.interfaces import AbstractModel, Conditioning, DataSpec
from scmkit.runs.run import Run
from scmkit.sampling import in_batches
from scmkit.types import Key, Keys

BATCH = 256
CLIPPINGS = 64


class _Scaled(eqx.Module):
    """A projection of samples in the data's units, for samples in the model's."""

    known: Projection
    scale: Float[Array, "..."]

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.scale * self.known(x / self.scale)


@blaming()
def edit_samples(
    model: AbstractModel,
    data: DataSpec,
    samples: Float[np.ndarray, "n *shape"],
    known: Projection,
    labels: ArrayLike | Sequence[int] | None = None,
    *,
    steps: int = 16,
    angle: float | None = None,
    variations: int = 1,
    seed: int = 0,
) -> Float[np.ndarray, "n variations *shape"]:
    """Samples of a consistency model that share the `known` part of each of `samples`.

    They start from noise, or, where an `angle` is given (TrigFlow's time in radians, whatever the process),
    from the samples noised that far: the smaller, the closer. `variations` have different noise. Values that
    `known`, a projection in the data's units, keeps as they are come back bit for bit; images stay within
    [-1, 1]. (arXiv 2303.01469, Algorithm 4, see `edit`.)
    """
    samples, steps = as_samples(samples, data), as_count(steps, "steps")
    variations = as_count(variations, "variations")
    raw = np.repeat(samples, variations, axis=0)
    given = np.asarray(jax.vmap(known)(jnp.asarray(raw)))
    scale = jnp.asarray(data.scale, jnp.float32).reshape(-1, *[1] * (len(data.shape) - 1))
    inside = _Scaled(known, jnp.broadcast_to(scale, data.shape))
    start = jnp.asarray(data.normalize(given if angle is None else raw))
    classes = None if labels is None else as_labels(labels, data, len(samples))
    cond = Conditioning(None if classes is None else jnp.repeat(jnp.asarray(classes), variations))
    times = edit_times(model.parameterization, steps, angle)
    keys = jr.split(jr.key(as_seed(seed)), len(raw))
    x = in_batches(lambda *some: _edit(model, inside, times, *some), (start, cond, keys), BATCH)
    made = data.denormalize(np.asarray(x))
    made = np.asarray(_agreeing(jnp.asarray(made), jnp.asarray(given), known, data))
    return made.reshape(len(samples), variations, *data.shape)


@blaming()
def interpolate_samples(
    run: Run,
    samples: Float[np.ndarray, "n *shape"],
    labels: ArrayLike | Sequence[int] | None = None,
    *,
    frames: int = 8,
) -> Float[np.ndarray, "frames *shape"]:
    """A walk from one sample to another, through the latents of both; labels change half-way.

    A diffusion run encodes and decodes. For a consistency run its teacher encodes, and the run's own model
    decodes in one step. Raises `UsageError` for a consistency run without a teacher, which cannot encode.
    """
    data, consistent = run.recipe.data, run.recipe.makes != "diffusion"
    teacher = run.teacher if consistent else None
    encoder = run.diffusion_model if teacher is None else Run.load(teacher).diffusion_model
    samples, frames = as_samples(samples, data), as_count(frames, "frames", least=2)
    if len(samples) != 2:
        raise UsageError(
            f"{len(samples)} samples: give two, from one of which to walk to the other"
        )
    cond = Conditioning(None if labels is None else jnp.asarray(as_labels(labels, data, 2)))
    a, b = eqx.filter_jit(jax.vmap(encode, (None, 0, 0)))(
        encoder, jnp.asarray(data.normalize(samples)), cond
    )
    weights = jnp.linspace(0, 1, frames)
    latents = jax.vmap(interpolate, (None, None, 0))(a, b, weights)
    nearest = jax.tree.map(lambda c: c[(weights > 0.5).astype(jnp.int32)], cond)
    back = eqx.filter_jit(jax.vmap(decode_at_once if consistent else decode, (None, 0, 0)))
    return data.denormalize(np.asarray(back(run.model, latents, nearest)))


@eqx.filter_jit
def _edit(
    model: AbstractModel,
    known: Projection,
    times: Float[Array, " steps"],
    start: Float[Array, "n *shape"],
    cond: Conditioning,
    keys: Keys,
) -> Float[Array, "n *shape"]:
    def one(start: Array, cond: Conditioning, key: Key) -> Array:
        return edit(model, start, known, cond, times=times, key=key)

    return jax.vmap(one)(start, cond, keys)


@eqx.filter_jit
def _agreeing(
    made: Float[Array, "n *shape"],
    given: Float[Array, "n *shape"],
    known: Projection,
    data: DataSpec,
) -> Float[Array, "n *shape"]:
    """`made` with the known part once more put in, in the data's units: neither normalization nor
    clipping has kept it. Projections on both sets in turn approach an image that is in both."""
    clipped = len(data.shape) == 3 and data.clip

    def once(_: Any, made: Array) -> Array:
        agreeing = given + (made - jax.vmap(known)(made))
        return jnp.clip(agreeing, -1, 1) if clipped else agreeing

    return jax.lax.fori_loop(0, CLIPPINGS if clipped else 1, once, made)
