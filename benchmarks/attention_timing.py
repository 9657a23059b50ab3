"""Time of a compiled JAX function on its device, its inputs cold.

On CUDA the sum of its kernels' own times, by CUPTI, as jax's Mosaic GPU profiler reads it, so that
neither launches nor the host count. Elsewhere, and where CUPTI is not to be had, seconds of the
host over many calls without waiting in between. Each call takes the next of several copies of the
inputs, together larger than the cache.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import jax
import jax.stages

HELD = 4 << 30
"""Bytes of results that one measurement may keep alive: CUPTI's calls all do."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call."""

    median: float
    low: float
    high: float
    timer: str
    """`cupti`, or `host`."""


class Rotation(jax.stages.Wrapped):
    """Calls a compiled function with each of `sets` in turn; the profiler takes it for a jit."""

    def __init__(self, call: Callable[..., Any], sets: Sequence[tuple[Any, ...]]) -> None:
        self.call = call
        self.sets = sets
        self.turn = count()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*self.sets[next(self.turn) % len(self.sets)])

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError  # part of what a jit is; nothing here calls it

    lower = trace


def copies(input_bytes: int, cache: int) -> int:
    """Copies of the inputs that make a rotation overflow the cache twice."""
    return min(64, max(2, -(-2 * cache // input_bytes)))


def measure(
    call: Callable[..., Any], sets: Sequence[tuple[Any, ...]], result_bytes: int, repeat: int
) -> Timing:
    """Median, least and most of `repeat` measurements, after a warm-up."""
    rotation = Rotation(call, sets)
    jax.block_until_ready(rotation())
    if jax.default_backend() == "gpu":
        try:
            return _by_cupti(rotation, min(repeat, max(1, HELD // result_bytes)), repeat)
        except (ImportError, RuntimeError, AttributeError) as e:
            if "RESOURCE_EXHAUSTED" in str(e):
                raise
            print(f"no CUPTI ({e}); timing on the host", file=sys.stderr)
    return _by_host(rotation, repeat)


def _by_cupti(rotation: Rotation, batch: int, repeat: int) -> Timing:
    from jax.experimental.mosaic.gpu import profiler

    times: list[float] = []
    while len(times) < repeat:
        # A single measurement comes bare, several as a list.
        found: Any = profiler.Cupti().measure(rotation, iterations=batch)()[1]
        if found is None:
            raise RuntimeError("CUPTI saw no kernel")
        times += [found] if batch == 1 else found
    return Timing(statistics.median(times), min(times), max(times), "cupti")


def _by_host(rotation: Rotation, repeat: int) -> Timing:
    # A CPU is shared with others, so its own seconds count; beside a GPU the process only waits.
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter

    def calls(n: int) -> float:
        start = clock()
        result = [rotation() for _ in range(n)][-1]
        jax.block_until_ready(result)
        return 1e3 * (clock() - start) / n

    n = max(1, min(100, round(10 / max(calls(1), 1e-3))))  # about 10 ms a measurement
    times = [calls(n) for _ in range(repeat)]
    return Timing(statistics.median(times), min(times), max(times), "host")
