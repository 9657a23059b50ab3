"""Samples of a model, drawn a batch at a time and kept as vectors."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from scmkit.evaluation.spaces import Space, joined
from scmkit.interfaces import DataSpec, Features, SamplerOutput


@dataclass(frozen=True)
class Generated:
    """Samples in each space; network evaluations and, without compiling, seconds per sample."""

    features: Sequence[Features]
    nfe: float
    seconds: float


def generated(
    batches: Callable[[], Iterator[SamplerOutput]],
    data: DataSpec,
    spaces: Sequence[Space],
    progress: Callable[[int], None],
) -> Generated:
    """The samples of one call of `batches`; `progress` is told how many there are."""
    parts, nfe, seconds = [[] for _ in spaces], [], []
    for out, took in _timed(batches()):
        samples = data.denormalise(np.asarray(out.x))
        for found, space in zip(parts, spaces, strict=True):
            found.append(space(samples))
        nfe.append(np.asarray(out.nfe))
        seconds.append(took)
        progress(sum(map(len, nfe)))
    if len(seconds) == 1:  # The first batch is compiled for.
        seconds += [took for _, took in _timed(batches())]
    return Generated(
        features=[joined(found) for found in parts],
        nfe=float(np.concatenate(nfe).mean()),
        # The last batch takes as long as the others: it is filled up.
        seconds=float(np.mean(seconds[1:])) / len(nfe[0]),
    )


def _timed(batches: Iterator[SamplerOutput]) -> Iterator[tuple[SamplerOutput, float]]:
    start = time.perf_counter()
    for out in batches:
        jax.block_until_ready(out)
        yield out, time.perf_counter() - start
        start = time.perf_counter()
