"""Which blocks of scores hold anything, and which of those everything."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from scmkit_attention.mosaic import common
from scmkit_attention.mosaic.common import PER_COLUMN, PER_ROW, ROWS, Ref


class Extent(NamedTuple):
    """Lengths before padding, and whether query `i` sees only keys up to `i + m - n`."""

    n: int
    m: int
    causal: bool

    def key_blocks(self, row: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
        """Blocks of keys that queries `row .. row + ROWS` all see whole, and that any of them sees.

        Of the latter at least one, where nothing is seen too.
        """
        if not self.causal:
            whole, some = self.m // block, -(-self.m // block)
            return whole + _unknown_zero(row, 30), some + _unknown_zero(row, 29)
        first, size = row + (self.m - self.n), jnp.int32(block)
        whole = lax.clamp(jnp.int32(0), first + 1, jnp.int32(self.m))
        some = lax.clamp(jnp.int32(1), first + ROWS, jnp.int32(self.m))
        return lax.div(whole, size), lax.div(some + (block - 1), size)

    def query_blocks(self, key: jax.Array, block: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """First block of queries that sees any of keys `key .. key + ROWS`, first from which on
        they all see all of them, and the end of blocks."""
        zero = _unknown_zero(key, 30)
        end = zero + -(-self.n // block)
        if not self.causal:
            return zero, zero, end
        first, size = key - (self.m - self.n), jnp.int32(block)
        some = lax.div(jnp.maximum(first, 0), size)
        whole = lax.div(jnp.maximum(first + (ROWS - 1), 0) + (block - 1), size)
        return jnp.minimum(some, end), jnp.minimum(whole, end), end

    def hide_keys(self, s: jax.Array, columns: Ref, row: jax.Array, key: jax.Array) -> jax.Array:
        """Scores of queries from `row` and keys from `key` on, -inf where the key is not seen.

        `columns` counts the columns in shared memory: counted in registers, LLVM keeps the counts
        there through the loop.
        """
        column = common.spread_columns(common.load(columns, PER_COLUMN), s.shape)
        if not self.causal:
            return jnp.where(column < self.m - key, s, -jnp.inf)
        last = common.iota(ROWS, PER_ROW) + (row + (self.m - self.n) - key)
        return jnp.where(column <= common.spread(last, s.shape), s, -jnp.inf)

    def hide_queries(self, s: jax.Array, columns: Ref, key: jax.Array, row: jax.Array) -> jax.Array:
        """The same, transposed: keys from `key` on, each with queries from `row` on."""
        column = common.spread_columns(common.load(columns, PER_COLUMN), s.shape)
        first = common.iota(ROWS, PER_ROW) + (key - (self.m - self.n) - row)
        return jnp.where(column >= common.spread(first, s.shape), s, -jnp.inf)


def _unknown_zero(row: jax.Array, bits: int) -> jax.Array:
    """Zero, which LLVM cannot tell, nor that it is the same for other `bits`.

    Loops whose length it knows it takes apart, which spills registers and waits for each `wgmma`.
    """
    return lax.shift_right_logical(row, jnp.int32(bits))
