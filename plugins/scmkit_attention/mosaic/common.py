"""What the kernels share: accumulators, layouts, rings in shared memory, and JAX's versions.

A kernel is written once. On a GPU a product is an asynchronous `wgmma`; JAX's interpreter runs
neither `wgmma` with an operand in registers nor accumulators that start from a value, so under
`interpret` the same products are taken with `jnp.dot`. Nothing else differs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

Ref = Any
"""An array in memory, or a barrier; `at` selects a part."""

ROWS = 64
"""Rows of a warpgroup's tile: what one `wgmma` computes."""

TILE = plgpu.Layout.WGMMA
PER_ROW = TILE.reduce(1)
PER_COLUMN = TILE.reduce(0)

_JAX_0_10 = jax.__version_info__ < (0, 11)


class _Registers:
    """An accumulator of `wgmma`."""

    def __init__(self, ref: Ref):
        self._ref = ref

    def set(self, value: jax.Array) -> None:
        self._ref[...] = value

    def add(self, a: jax.Array | Ref, b: Ref) -> None:
        """Starts `self += a @ b`, after the products started before; `b` is in shared memory."""
        plgpu.wgmma(self._ref, a, b)

    def get(self, pending: int = 0) -> jax.Array:
        """The value once all products but the last `pending`, of any accumulator, are complete."""
        return plgpu.wgmma_accumulator_load(self._ref, wait_n=pending)


class _Interpreted:
    """The same on a CPU."""

    def __init__(self, shape: tuple[int, int]):
        self._value = jnp.zeros(shape, jnp.float32)

    def set(self, value: jax.Array) -> None:
        self._value = value

    def add(self, a: jax.Array | Ref, b: Ref) -> None:
        a = a if isinstance(a, jax.Array) else a[...]
        self._value += jnp.dot(a, b[...], preferred_element_type=jnp.float32)
        plgpu.commit_smem()  # wgmma reads as TMA writes, by the asynchronous proxy

    def get(self, pending: int = 0) -> jax.Array:
        del pending
        return self._value


def accumulate(body: Callable[..., Any], *shapes: tuple[int, int], interpret: bool) -> Any:
    """Calls `body` with an accumulator, zero at first, for each shape."""
    if interpret:
        return body(*map(_Interpreted, shapes))
    return pl.run_scoped(
        lambda *refs: body(*map(_Registers, refs)),
        *(plgpu.WGMMAAccumulatorRef(shape, jnp.float32) for shape in shapes),
    )


def full(shape: tuple[int, ...], value: float, layout: Any) -> jax.Array:
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def spread(row: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A number per row as a tile."""
    return lax.broadcast_in_dim(row, shape, [0])


def spread_columns(column: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A number per column as a tile."""
    return lax.broadcast_in_dim(column, shape, [1])


def iota(size: int, layout: Any) -> jax.Array:
    return plgpu.broadcasted_iota(jnp.int32, (size,), 0, layout=layout)


def load(ref: Ref, layout: Any) -> jax.Array:
    if _JAX_0_10:  # the index has no default
        return plgpu.load(ref, (), layout=layout)
    return plgpu.load(ref, layout=layout)  # pyright: ignore[reportCallIssue]


def transpose(ref: Ref) -> Ref:
    return ref.transpose((1, 0))


def tiles(*shape: int, dtype: Any) -> Any:
    """Shared memory for matrices that TMA writes and `wgmma` reads: rows of 128 bytes, swizzled."""
    transforms = plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def barriers(arrivals: int, number: int) -> Any:
    return plgpu.Barrier(num_arrivals=arrivals, num_barriers=number)


def unhoisted(index: jax.Array, number: jax.Array, bits: int = 30) -> jax.Array:
    """`index` plus `number`'s bits above so many, which are zero, what LLVM cannot tell.

    With the step of a loop as `number`, addresses are computed in its body: LLVM moves what does not
    change with the step before the loop, a descriptor for each `wgmma`, and keeps all in registers.
    Nor does it share what is computed from the same index with other `bits`.
    """
    return index + lax.shift_right_logical(number, jnp.int32(bits))


def slot(step: jax.Array, stages: int) -> jax.Array:
    return lax.rem(step, jnp.int32(stages))


def stream(
    steps: jax.Array, stages: int, buffers: Sequence[tuple[Ref, Callable[..., None]]]
) -> None:
    """Fills rings, step after step: `load(step, slot)` for each buffer's `(free, load)`."""

    # Beyond the last step too: the interpreter insists that every completion is observed.
    @pl.loop(0, steps + stages)
    def _(j):
        for free, load in buffers:
            pl.when(j >= stages)(lambda free=free: plgpu.barrier_wait(free.at[slot(j, stages)]))
            pl.when(j < steps)(lambda load=load: load(j, slot(j, stages)))


def skip(start: jax.Array, end: jax.Array, stages: int, buffers: Sequence[tuple[Ref, Ref]]) -> None:
    """Lets go of the steps `start .. end` unread: `(filled, free)` for each buffer."""

    @pl.loop(start, end)
    def _(j):
        for filled, free in buffers:
            plgpu.barrier_wait(filled.at[slot(j, stages)])
            plgpu.barrier_arrive(free.at[slot(j, stages)])


def kernel(
    body: Callable[..., None],
    *,
    name: str,
    out: Sequence[jax.ShapeDtypeStruct],
    scratch: dict[str, Any],
    grid: dict[str, int],
    warpgroups: int,
    interpret: bool,
) -> Callable[..., Sequence[jax.Array]]:
    """`body` on `warpgroups` that compute and one more that loads; the last axis runs fastest."""
    simulated = {}
    if interpret:  # from jax 0.11; tests ask the interpreter for the races it found
        params = plgpu.InterpretGPUParams  # pyright: ignore[reportAttributeAccessIssue]
        simulated = {"interpret": params(detect_races=True)}
    return plgpu.kernel(
        body,
        out_type=out,
        scratch_types=scratch,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=warpgroups + 1,
        thread_name="warpgroup",
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        **simulated,
    )
