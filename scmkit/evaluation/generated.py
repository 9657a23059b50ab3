"""Samples of a model, drawn a batch at a time and kept as vectors."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from scmkit.evaluation.spaces import Space, joined
from scmkit.interfaces import (
    AbstractDensity,
    AbstractModel,
    AbstractSampler,
    Conditioning,
    DataSpec,
    Features,
    SamplerOutput,
)
from scmkit.sampling import draw_batches, prior
from scmkit.types import Key


@dataclass(frozen=True)
class Generated:
    """Samples in each space; network evaluations and, without compiling, seconds per sample."""

    features: Sequence[Features]
    nfe: float
    seconds: float


@dataclass(frozen=True)
class Drawing:
    """How the samples of every row are drawn: with one noise, whatever the number of steps."""

    model: AbstractModel
    sampler: AbstractSampler
    data: DataSpec
    cond: Conditioning
    n: int
    key: Key

    @property
    def _keys(self) -> tuple[Key, Key]:
        noise, sampler = jr.split(self.key)
        return noise, sampler

    def batches(self, steps: int) -> Iterator[SamplerOutput]:
        """The samples of so many steps, in the model's units."""
        noise_key, key = self._keys
        keys = {"noise_key": noise_key, "key": key}
        return draw_batches(
            self.model, self.sampler, self.data, self.n, self.cond, steps=steps, **keys
        )

    def __call__(
        self, steps: int, spaces: Sequence[Space], progress: Callable[[int], None]
    ) -> Generated:
        """The samples of so many steps in each space; `progress` is told how many there are."""
        parts, nfe, seconds = [[] for _ in spaces], [], []
        for out, took in _timed(self.batches(steps)):
            samples = self.data.denormalize(np.asarray(out.x))
            for found, space in zip(parts, spaces, strict=True):
                found.append(space(samples, together=True))
            nfe.append(np.asarray(out.nfe))
            seconds.append(took)
            progress(sum(map(len, nfe)))
        if len(seconds) == 1:  # The first batch is compiled for.
            seconds += [took for _, took in _timed(self.batches(steps))]
        return Generated(
            features=[joined(found) for found in parts],
            nfe=float(np.concatenate(nfe).mean()),
            # The last batch takes as long as the others: it is filled up.
            seconds=float(np.mean(seconds[1:])) / len(nfe[0]),
        )

    def exact_ends(self, density: AbstractDensity | None) -> Float[np.ndarray, "n d"] | None:
        """The exact ends of the PF-ODE paths from the same noise, in the data's units.

        `density` is the data's, None where it is not known.
        """
        if density is None:
            return None
        ours = density.affine(jnp.asarray(self.data.shift), jnp.asarray(self.data.scale))
        process, (noise_key, _) = self.model.process, self._keys
        noise = prior(self.model, self.data, self.n, key=noise_key)
        ends = jax.vmap(lambda x: ours.consistency(process, x, process.t_max))(noise)
        return self.data.denormalize(np.asarray(ends))


def _timed(batches: Iterator[SamplerOutput]) -> Iterator[tuple[SamplerOutput, float]]:
    start = time.perf_counter()
    for out in batches:
        jax.block_until_ready(out)
        yield out, time.perf_counter() - start
        start = time.perf_counter()
