r"""Backward in two kernels, each of which recomputes the scores.

With $p = e^{\mathrm{scale}\, q k^T - \ell}$, $\delta = \mathrm{rowsum}(\bar o \circ o)$ and
$\bar s = p \circ (\bar o v^T - \delta)$,

$$\bar q = \mathrm{scale}\, \bar s k, \qquad
  \bar k = \mathrm{scale}\, \bar s^T q, \qquad \bar v = p^T \bar o .$$

dq keeps 64 queries per warpgroup and steps over keys. dkv keeps 64 keys and steps over queries, and
works with $s^T$, so that no operand is transposed in registers; it takes the query heads that share a
key head one after another. The second product of the scores runs during the exponentials.
(arXiv 2307.08691, Section 3.)
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from scmkit_attention.mosaic import common
from scmkit_attention.mosaic.common import PER_COLUMN, PER_ROW, ROWS, TILE, Ref
from scmkit_attention.mosaic.extent import Extent
from scmkit_attention.mosaic.tiles import TILES
from scmkit_attention.problem import Operands, Output

_LOG2E = math.log2(math.e)
_F32 = jnp.float32

PerQuery = Float[Array, "b h n"]


def query_cotangents(
    x: Operands,
    do: Output,
    level: PerQuery,
    delta: PerQuery,
    scale: float,
    extent: Extent,
    interpret: bool,
) -> Output:
    """dq; `level` is the log-sum-exp in base 2, and lengths are padded to blocks."""
    (b, n, h, d), g, dtype = x.q.shape, x.k.shape[2], x.q.dtype
    tile = TILES["attention_dq", d]
    warpgroups, block = tile.warpgroups, tile.block
    stages = min(tile.stages, x.k.shape[1] // block)
    masked_tail = extent.causal or extent.m % block != 0

    def body(*refs: Ref, **scratch: Ref) -> None:
        q, k, v, do, level, delta, dq = refs
        group = lax.axis_index("warpgroup")
        batch, head, tile_number = (lax.axis_index(a) for a in ("batch", "head", "queries"))
        if extent.causal:  # the longest first
            tile_number = n // (warpgroups * ROWS) - 1 - tile_number
        row = tile_number * (warpgroups * ROWS) + group * ROWS
        last_row = (tile_number + 1) * (warpgroups * ROWS) - ROWS

        @pl.when(group < warpgroups)
        def _():
            plgpu.set_max_registers(tile.registers, action="increase")
            _compute(q, do, level, delta, dq, batch, head, group, row, last_row, **scratch)

        @pl.when(group == warpgroups)
        def _():
            plgpu.set_max_registers(tile.loader_registers, action="decrease")
            key_head = lax.div(head, jnp.int32(h // g))
            steps = extent.key_blocks(last_row, block)[1]
            _load(k, v, batch, key_head, steps, **scratch)

    def _load(k, v, batch, head, steps, k_s, v_s, k_full, v_full, k_free, v_free, **_):
        def loader(source, target, filled):
            def load(j, slot):
                rows = pl.ds(j * block, block)
                plgpu.copy_gmem_to_smem(
                    source.at[batch, rows, head], target.at[slot], filled.at[slot]
                )

            return load

        rings = (k_free, loader(k, k_s, k_full)), (v_free, loader(v, v_s, v_full))
        common.stream(steps, stages, rings)

    def _compute(
        q, do, level, delta, dq, batch, head, group, row, last_row,
        q_s, do_s, level_s, delta_s, columns_s, k_s, v_s, q_full, k_full, v_full, k_free, v_free,
    ):  # fmt: skip
        rows = pl.ds(row, ROWS)
        for source, target in ((q, q_s), (do, do_s)):
            plgpu.copy_gmem_to_smem(
                source.at[batch, rows, head], target.at[group], q_full.at[group]
            )
        for source, target in ((level, level_s), (delta, delta_s)):
            plgpu.copy_gmem_to_smem(
                source.at[batch, head, rows], target.at[group], q_full.at[group]
            )
        plgpu.barrier_wait(q_full.at[group])
        level_, delta_ = (common.load(a.at[group], PER_ROW) for a in (level_s, delta_s))
        if masked_tail:
            columns_s.at[group][...] = common.iota(block, PER_COLUMN)

        def step(j, acc, masked):
            slot, here = common.slot(j, stages), common.unhoisted(group, j)

            def products(s_, dp_, dq_):
                plgpu.barrier_wait(k_full.at[slot])
                s_.add(q_s.at[here], common.transpose(k_s.at[slot]))
                plgpu.barrier_wait(v_full.at[slot])
                dp_.add(do_s.at[here], common.transpose(v_s.at[slot]))
                s = s_.get(pending=1)
                if masked:
                    s = extent.hide_keys(s, columns_s.at[group], row, j * block)
                p = jnp.exp2(s * (scale * _LOG2E) - common.spread(level_, s.shape))
                dp = dp_.get()
                plgpu.barrier_arrive(v_free.at[slot])
                ds = p * (dp - common.spread(delta_, dp.shape))
                dq_.set(acc)
                dq_.add(ds.astype(dtype), k_s.at[slot])
                out = dq_.get()
                plgpu.barrier_arrive(k_free.at[slot])
                return out

            shapes = (ROWS, block), (ROWS, block), (ROWS, d)
            return common.accumulate(products, *shapes, interpret=interpret)

        whole, steps = extent.key_blocks(row, block)
        acc = common.full((ROWS, d), 0, TILE)
        acc = lax.fori_loop(jnp.int32(0), whole, lambda j, a: step(j, a, False), acc)
        if masked_tail:
            acc = lax.fori_loop(whole, steps, lambda j, a: step(j, a, True), acc)
        q_s.at[group][...] = (acc * scale).astype(dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q_s.at[group], dq.at[batch, rows, head])

        # Blocks that only later warpgroups see.
        last = extent.key_blocks(last_row, block)[1]
        common.skip(steps, last, stages, [(k_full, k_free), (v_full, v_free)])

        plgpu.wait_smem_to_gmem(0)

    own = common.tiles(warpgroups, ROWS, d, dtype=dtype)
    ring = common.tiles(stages, block, d, dtype=dtype)
    per_row = plgpu.SMEM((warpgroups, ROWS), _F32)
    return common.kernel(
        body,
        name="attention_dq",
        out=[jax.ShapeDtypeStruct(x.q.shape, dtype)],
        scratch={
            "q_s": own,
            "do_s": own,
            "level_s": per_row,
            "delta_s": per_row,
            "columns_s": plgpu.SMEM((warpgroups, block), jnp.int32),
            "k_s": ring,
            "v_s": ring,
            "q_full": common.barriers(4, warpgroups),
            "k_full": common.barriers(1, stages),
            "v_full": common.barriers(1, stages),
            "k_free": common.barriers(warpgroups, stages),
            "v_free": common.barriers(warpgroups, stages),
        },
        grid={"batch": b, "head": h, "queries": n // (warpgroups * ROWS)},
        warpgroups=warpgroups,
        interpret=interpret,
    )(x.q, x.k, x.v, do, level, delta)[0]


def key_value_cotangents(
    x: Operands,
    do: Output,
    level: PerQuery,
    delta: PerQuery,
    scale: float,
    extent: Extent,
    interpret: bool,
) -> tuple[Float[Array, "b m g d"], Float[Array, "b m g d"]]:
    """dk and dv."""
    (b, m, g, d), h, dtype = x.k.shape, x.q.shape[2], x.q.dtype
    tile = TILES["attention_dkv", d]
    warpgroups, block = tile.warpgroups, tile.block
    per_group = h // g
    stages = min(tile.stages, per_group * (x.q.shape[1] // block))

    def body(*refs: Ref, **scratch: Ref) -> None:
        q, k, v, do, level, delta, dk, dv = refs
        group = lax.axis_index("warpgroup")
        batch, head, tile_number = (lax.axis_index(a) for a in ("batch", "head", "keys"))
        key = tile_number * (warpgroups * ROWS)
        # Both warpgroups take every block that the first key's sees.
        start, _whole, end = extent.query_blocks(key, block)

        @pl.when(group < warpgroups)
        def _():
            plgpu.set_max_registers(tile.registers, action="increase")
            _compute(k, v, dk, dv, batch, head, group, key, start, end, **scratch)

        @pl.when(group == warpgroups)
        def _():
            plgpu.set_max_registers(tile.loader_registers, action="decrease")
            _load(q, do, level, delta, batch, head, start, end, **scratch)

    def _load(
        q, do, level, delta, batch, head, start, end,
        q_s, do_s, level_s, delta_s, q_full, do_full, q_free, do_free, **_,
    ):  # fmt: skip
        size = end - start

        def loader(matrix, number, matrix_s, number_s, filled):
            def load(j, slot):
                # All of one query head's blocks, then the next head's.
                query_head = head * per_group + lax.div(j, size)
                rows = pl.ds((start + lax.rem(j, size)) * block, block)
                plgpu.copy_gmem_to_smem(
                    matrix.at[batch, rows, query_head], matrix_s.at[slot], filled.at[slot]
                )
                plgpu.copy_gmem_to_smem(
                    number.at[batch, query_head, rows], number_s.at[slot], filled.at[slot]
                )

            return load

        rings = (
            (q_free, loader(q, level, q_s, level_s, q_full)),
            (do_free, loader(do, delta, do_s, delta_s, do_full)),
        )
        common.stream(per_group * size, stages, rings)

    def _compute(
        k, v, dk, dv, batch, head, group, first_key, start, end,
        k_s, v_s, columns_s, q_s, do_s, level_s, delta_s, k_full, q_full, do_full, q_free, do_free,
    ):  # fmt: skip
        key = first_key + group * ROWS
        rows = pl.ds(key, ROWS)
        for source, target in ((k, k_s), (v, v_s)):
            plgpu.copy_gmem_to_smem(
                source.at[batch, rows, head], target.at[group], k_full.at[group]
            )
        plgpu.barrier_wait(k_full.at[group])
        if extent.causal:
            columns_s.at[group][...] = common.iota(block, PER_COLUMN)
        resident = [common.load(a.at[group], TILE) for a in (k_s, v_s) if tile.resident]

        def step(j, i, carry, masked):
            """Step `j` of all, block `i` of a query head."""
            dk_sum, dv_sum = carry
            slot, here = common.slot(j, stages), common.unhoisted(group, j)
            k_, v_ = resident or [k_s.at[here], v_s.at[here]]

            def products(s_, dp_, dk_, dv_):
                plgpu.barrier_wait(q_full.at[slot])
                s_.add(k_, common.transpose(q_s.at[slot]))
                plgpu.barrier_wait(do_full.at[slot])
                dp_.add(v_, common.transpose(do_s.at[slot]))
                s = s_.get(pending=1)
                if masked:
                    s = extent.hide_queries(s, columns_s.at[group], key, i * block)
                level_ = common.load(level_s.at[slot], PER_COLUMN)
                p = jnp.exp2(s * (scale * _LOG2E) - common.spread_columns(level_, s.shape))
                dv_.set(dv_sum)
                dv_.add(p.astype(dtype), do_s.at[slot])
                dp = dp_.get(pending=1)
                delta_ = common.load(delta_s.at[slot], PER_COLUMN)
                ds = p * (dp - common.spread_columns(delta_, dp.shape))
                dk_.set(dk_sum)
                dk_.add(ds.astype(dtype), q_s.at[slot])
                # What was loaded to registers is overwritten by TMA, another proxy.
                plgpu.commit_smem()
                dv_new = dv_.get(pending=1)
                plgpu.barrier_arrive(do_free.at[slot])
                dk_new = dk_.get()
                plgpu.barrier_arrive(q_free.at[slot])
                return dk_new, dv_new

            shapes = (ROWS, block), (ROWS, block), (ROWS, d), (ROWS, d)
            return common.accumulate(products, *shapes, interpret=interpret)

        def query_head(r, carry):
            offset = r * (end - start) - start
            whole = extent.query_blocks(key, block)[1]
            if extent.causal:
                carry = lax.fori_loop(
                    start, whole, lambda i, c: step(i + offset, i, c, True), carry
                )
            return lax.fori_loop(whole, end, lambda i, c: step(i + offset, i, c, False), carry)

        zero = common.full((ROWS, d), 0, TILE)
        if per_group == 1:
            sums = query_head(jnp.int32(0), (zero, zero))
        else:
            sums = lax.fori_loop(jnp.int32(0), jnp.int32(per_group), query_head, (zero, zero))
        for value, buffer, target in ((sums[0] * scale, k_s, dk), (sums[1], v_s, dv)):
            buffer.at[group][...] = value.astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(buffer.at[group], target.at[batch, rows, head])
        plgpu.wait_smem_to_gmem(0)

    own = common.tiles(warpgroups, ROWS, d, dtype=dtype)
    ring = common.tiles(stages, block, d, dtype=dtype)
    per_column = plgpu.SMEM((stages, block), _F32)
    dk, dv = common.kernel(
        body,
        name="attention_dkv",
        out=[jax.ShapeDtypeStruct(x.k.shape, dtype)] * 2,
        scratch={
            "k_s": own,
            "v_s": own,
            "columns_s": plgpu.SMEM((warpgroups, block), jnp.int32),
            "q_s": ring,
            "do_s": ring,
            "level_s": per_column,
            "delta_s": per_column,
            "k_full": common.barriers(2, warpgroups),
            "q_full": common.barriers(2, stages),
            "do_full": common.barriers(2, stages),
            "q_free": common.barriers(warpgroups, stages),
            "do_free": common.barriers(warpgroups, stages),
        },
        grid={"batch": b, "head": g, "keys": m // (warpgroups * ROWS)},
        warpgroups=warpgroups,
        interpret=interpret,
    )(x.q, x.k, x.v, do, level, delta)
    return dk, dv
