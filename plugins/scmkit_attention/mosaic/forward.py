r"""Forward, and forward with its tangent, in one pass over the keys.

With $s = q k^T$ for a block of keys, $p = 2^{\sigma s - r}$ for $\sigma = \mathrm{scale} \log_2 e$ and
the running row maximum $r$, and $w = p \circ (\mathrm{scale} (\dot q k^T + q \dot k^T) - c)$:

$$l = \textstyle\sum p, \quad \mu = \sum w, \quad O = p v, \quad G = p \dot v + w v; \qquad
  o = \frac{O}{l}, \quad \dot o = \frac{1}{l} \Big(G - \frac{\mu}{l} O\Big) .$$

$c$ is the mean of a row's tangent scores over the first block of keys. $\dot o$ does not depend on it,
its rounding does: see the Triton kernels.

Two warpgroups compute, 64 queries each, while a third loads blocks of keys and values ahead of them
with TMA. Of a step's six products the tangent scores run during the exponentials, and $p v$ and
$p \dot v$ during the tangent's weights; what is left bare in one warpgroup the other one covers.
(arXiv 2407.08608, Section 3.)
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from scmkit_attention.mosaic import common
from scmkit_attention.mosaic.common import PER_COLUMN, PER_ROW, ROWS, TILE, Ref
from scmkit_attention.mosaic.extent import Extent
from scmkit_attention.mosaic.tiles import TILES, Kernel
from scmkit_attention.problem import Differentials, LogSumExp, Operands, Output

_LN2 = math.log(2)
_LOG2E = 1 / _LN2
_F32 = jnp.float32
# Below every score, and finite: a difference of two of them is a number.
_LOWEST = -1e30
# Keeps 0 / 0 of rows that see nothing a number; a row that sees a key has a sum of 1 or more.
_TINY = 1e-30


def attend(
    x: Operands, t: Differentials | None, scale: float, extent: Extent, interpret: bool
) -> tuple[LogSumExp, list[Output]]:
    """Log-sum-exp and [output], or [output, tangent] with `t`; lengths are padded to blocks."""
    name: Kernel = "attention_forward" if t is None else "attention_dual"
    (b, n, h, d), g, dtype = x.q.shape, x.k.shape[2], x.q.dtype
    tile = TILES[name, d]
    warpgroups, block, parts = tile.warpgroups, tile.block, 1 if t is None else 2
    stages = min(tile.stages, x.k.shape[1] // block)
    masked_tail = extent.causal or extent.m % block != 0

    def body(*refs: Ref, **scratch: Ref) -> None:
        group = lax.axis_index("warpgroup")
        batch, head, tile_number = (lax.axis_index(a) for a in ("batch", "head", "queries"))
        if extent.causal:  # the longest first
            tile_number = n // (warpgroups * ROWS) - 1 - tile_number
        row = tile_number * (warpgroups * ROWS) + group * ROWS
        last_row = (tile_number + 1) * (warpgroups * ROWS) - ROWS
        operands, outs = refs[: 3 * parts], refs[3 * parts :]

        @pl.when(group < warpgroups)
        def _():
            plgpu.set_max_registers(tile.registers, action="increase")
            _compute(operands[::3], outs, batch, head, group, row, last_row, **scratch)

        @pl.when(group == warpgroups)
        def _():
            plgpu.set_max_registers(tile.loader_registers, action="decrease")
            key_head = lax.div(head, jnp.int32(h // g))
            steps = extent.key_blocks(last_row, block)[1]
            _load(operands[1::3], operands[2::3], batch, key_head, steps, **scratch)

    def _load(keys, values, batch, head, steps, k_s, v_s, k_full, v_full, k_free, v_free, **_):
        def loader(sources, target, filled):
            def load(j, slot):
                rows = pl.ds(j * block, block)
                for i, source in enumerate(sources):
                    plgpu.copy_gmem_to_smem(
                        source.at[batch, rows, head], target.at[slot, i], filled.at[slot]
                    )

            return load

        rings = (k_free, loader(keys, k_s, k_full)), (v_free, loader(values, v_s, v_full))
        common.stream(steps, stages, rings)

    def _compute(
        queries, outs, batch, head, group, row, last_row,
        q_s, k_s, v_s, lse_s, columns_s, q_full, k_full, v_full, k_free, v_free,
    ):  # fmt: skip
        rows = pl.ds(row, ROWS)
        for i, source in enumerate(queries):
            plgpu.copy_gmem_to_smem(
                source.at[batch, rows, head], q_s.at[group, i], q_full.at[group]
            )
        plgpu.barrier_wait(q_full.at[group])
        if masked_tail:
            columns_s.at[group][...] = common.iota(block, PER_COLUMN)
        resident = [common.load(q_s.at[group, i], TILE) for i in range(parts) if tile.resident]

        def left(j, bits=30):
            here = common.unhoisted(group, j, bits)
            return resident or [q_s.at[here, i] for i in range(parts)]

        def weights(s, j, peak, masked):
            if masked:
                s = extent.hide_keys(s, columns_s.at[group], row, j * block)
            new = jnp.maximum(peak, s.max(axis=1) * (scale * _LOG2E))
            decay = jnp.exp2(peak - new)
            return jnp.exp2(s * (scale * _LOG2E) - common.spread(new, s.shape)), new, decay

        def forward(j, carry, masked, first=False):
            del first
            peak, l, o = carry
            slot, (q,) = common.slot(j, stages), left(j)

            def products(s_, o_):
                plgpu.barrier_wait(k_full.at[slot])
                s_.add(q, common.transpose(k_s.at[slot, 0]))
                s = s_.get()
                plgpu.barrier_arrive(k_free.at[slot])
                p, new, decay = weights(s, j, peak, masked)
                o_.set(o * common.spread(decay, o.shape))
                plgpu.barrier_wait(v_full.at[slot])
                o_.add(p.astype(dtype), v_s.at[slot, 0])
                total = l * decay + p.sum(axis=1)
                out = o_.get()
                plgpu.barrier_arrive(v_free.at[slot])
                return new, total, out

            return common.accumulate(products, (ROWS, block), (ROWS, d), interpret=interpret)

        def dual(j, carry, masked, first=False):
            peak, l, o, mu, g_sum = carry
            slot = common.slot(j, stages)

            def products(s_, ts_, o_, g_):
                # Addresses of its own for each product: shared, they wait in uniform registers.
                k, k_again, tk = (
                    common.transpose(k_s.at[common.unhoisted(slot, j, bits), i])
                    for bits, i in ((30, 0), (29, 0), (27, 1))
                )
                (q, tq), (q_again, _) = left(j), left(j, 28)
                plgpu.barrier_wait(k_full.at[slot])
                s_.add(q, k)
                ts_.add(tq, k_again)
                ts_.add(q_again, tk)
                p, new, decay = weights(s_.get(pending=2), j, peak, masked)
                total = p.sum(axis=1)
                sums = l * decay + total, mu * decay
                low = p.astype(dtype)
                o_.set(o * common.spread(decay, o.shape))
                g_.set(g_sum * common.spread(decay, o.shape))
                plgpu.barrier_wait(v_full.at[slot])
                v, tv = v_s.at[slot, 0], v_s.at[slot, 1]
                o_.add(low, v)
                g_.add(low, tv)
                ts = ts_.get(pending=2) * scale
                plgpu.barrier_arrive(k_free.at[slot])
                if first:  # kept in shared memory, where the log-sum-exp goes in the end
                    shift = (p * ts).sum(axis=1) / jnp.maximum(total, _TINY)
                    lse_s.at[group][...] = shift
                else:
                    shift = common.load(lse_s.at[group], PER_ROW)
                w = p * (ts - common.spread(shift, ts.shape))
                g_.add(w.astype(dtype), v)
                mean = sums[1] + w.sum(axis=1)
                out, tangent = o_.get(), g_.get()
                plgpu.barrier_arrive(v_free.at[slot])
                return new, sums[0], out, mean, tangent

            shapes = (ROWS, block), (ROWS, block), (ROWS, d), (ROWS, d)
            return common.accumulate(products, *shapes, interpret=interpret)

        step = forward if t is None else dual
        zero_row, zero_tile = common.full((ROWS,), 0, PER_ROW), common.full((ROWS, d), 0, TILE)
        carry = common.full((ROWS,), _LOWEST, PER_ROW), zero_row, zero_tile
        if t is not None:
            carry = *carry, zero_row, zero_tile
        whole, steps = extent.key_blocks(row, block)
        one = jnp.int32(1)
        carry = step(jnp.int32(0), carry, extent.causal or extent.m < block, first=True)
        whole = jnp.maximum(whole, one)
        carry = lax.fori_loop(one, whole, lambda j, c: step(j, c, False), carry)
        if masked_tail:
            carry = lax.fori_loop(whole, steps, lambda j, c: step(j, c, True), carry)

        # Computed anew: kept from before the loop, they would take registers that it needs.
        batch, head, last_row, number = (
            common.unhoisted(a, row, 28)
            for a in (batch, head, last_row, lax.div(row, jnp.int32(ROWS)))
        )
        rows = pl.ds(number * ROWS, ROWS)
        peak, l, o, *tangents = carry
        inverse = 1 / jnp.maximum(l, _TINY)
        o = o * common.spread(inverse, o.shape)
        q_s.at[group, 0][...] = o.astype(dtype)
        if tangents:
            mu, g_sum = tangents
            to = g_sum * common.spread(inverse, o.shape) - o * common.spread(mu * inverse, o.shape)
            q_s.at[group, 1][...] = to.astype(dtype)
        lse_s.at[group][...] = peak * _LN2 + jnp.log(l)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(lse_s.at[group], outs[0].at[batch, head, rows])
        for i, target in enumerate(outs[1:]):
            plgpu.copy_smem_to_gmem(q_s.at[group, i], target.at[batch, rows, head])

        # Blocks that only later warpgroups see.
        last = extent.key_blocks(last_row, block)[1]
        common.skip(steps, last, stages, [(k_full, k_free), (v_full, v_free)])

        plgpu.wait_smem_to_gmem(0)

    ring = common.tiles(stages, parts, block, d, dtype=dtype)
    like_q = jax.ShapeDtypeStruct(x.q.shape, dtype)
    lse, *outs = common.kernel(
        body,
        name=name,
        out=[jax.ShapeDtypeStruct((b, h, n), _F32)] + [like_q] * parts,
        scratch={
            "q_s": common.tiles(warpgroups, parts, ROWS, d, dtype=dtype),
            "k_s": ring,
            "v_s": ring,
            "lse_s": plgpu.SMEM((warpgroups, ROWS), _F32),
            "columns_s": plgpu.SMEM((warpgroups, block), jnp.int32),
            "q_full": common.barriers(parts, warpgroups),
            "k_full": common.barriers(parts, stages),
            "v_full": common.barriers(parts, stages),
            "k_free": common.barriers(warpgroups, stages),
            "v_free": common.barriers(warpgroups, stages),
        },
        grid={"batch": b, "head": h, "queries": n // (warpgroups * ROWS)},
        warpgroups=warpgroups,
        interpret=interpret,
    )(x.q, x.k, x.v, *(() if t is None else (t.q, t.k, t.v)))
    return lse, outs
