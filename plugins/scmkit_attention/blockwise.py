r"""Attention in plain XLA, block by block, with memory linear in the tokens.

The softmax is kept online over blocks of keys, as the GPU kernels do (arXiv 2307.08691, Section 3),
and the tangent with it: with $h = p \circ (\dot S - c)$,

$$g \mathrel{+}= h v + p \dot v, \quad \mu \mathrel{+}= \mathrm{rowsum}(h), \quad
  \dot o = (g - \mu\, o) / \mathrm{rowsum}(p).$$

A softmax's tangent does not see a constant `c` added to a row of $\dot S$. The first visible block's
mean makes $\mu$ small, and with it the rounding of `h`, however large the part of $\dot S$ that all
keys have in common, as from a time embedding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.types import sum_dtype
from scmkit_attention.problem import (
    Differentials,
    LogSumExp,
    Operands,
    Output,
    Spec,
)
from scmkit_attention.scores import (
    Rows,
    Scores,
    Values,
    by_group,
    by_head,
    grouped,
    merge,
    mix,
    mix_transposed,
    products,
    split,
)

BLOCK = 512
"""Queries and keys in a block."""


class _Tangent(NamedTuple):
    """What is summed for the tangent, and the row's constant `c`."""

    g: Values
    mu: Rows
    shift: Rows


class _State(NamedTuple):
    """What is summed over the blocks of keys, for one block of queries."""

    level: Rows
    total: Rows
    o: Values
    tangent: _Tangent | None


def unsupported(x: Operands, spec: Spec) -> str | None:
    """None: this form takes everything but a bias, for which `dense` does."""
    return None if x.bias is None else "an additive bias"


def forward(x: Operands, spec: Spec) -> tuple[Output, LogSumExp]:
    """Output and log-sum-exp."""
    o, lse, _ = _run(x, None, spec)
    return o, lse


def dual(x: Operands, t: Differentials, spec: Spec) -> tuple[Output, LogSumExp, Output]:
    """Output, log-sum-exp and the output's tangent."""
    o, lse, to = _run(x, t, spec)
    assert to is not None
    return o, lse, to


def backward(x: Operands, o: Output, lse: LogSumExp, do: Output, spec: Spec) -> Differentials:
    """Cotangents of the operands for the cotangent `do` of the output `o`."""
    blocks = _Blocks(x, spec)
    g, dtype = x.k.shape[2], sum_dtype(x.q.dtype)
    delta = jnp.sum(o.astype(dtype) * do.astype(dtype), axis=-1).transpose(0, 2, 1)
    lse = jnp.where(jnp.isfinite(lse), lse, 0)
    rows = tuple(blocks.queries(a) for a in (x.q, do))
    rows += tuple(blocks.rows(a) for a in (lse, delta))

    def of_keys(dq: Array, block: Any) -> tuple[Array, Any]:
        j, k, v = block

        def of_queries(carry: Any, block: Any) -> tuple[Any, Array]:
            i, q, do, lse, delta, dq = block

            def add(carry: Any, dq: Array) -> tuple[Any, Array]:
                dk, dv = carry
                lift, pulled = split(q, g), split(do, g)
                p = jnp.exp(blocks.scores(lift, k, i, j) - by_group(lse, g))
                ds = p * (products(pulled, v) - by_group(delta, g))
                dk = dk + spec.scale * mix_transposed(ds, lift)
                return (dk, dv + mix_transposed(p, pulled)), dq + spec.scale * mix(ds, k)

            return blocks.unless_hidden(i, j, add, carry, dq)

        zeros = (_zeros(k, dtype), _zeros(v, dtype))
        (dk, dv), dq = jax.lax.scan(of_queries, zeros, (blocks.row_indices, *rows, dq))
        return dq, (dk, dv)

    dq = _zeros(jax.vmap(lambda q: split(q, g))(rows[0]), dtype)
    keys = (blocks.key_indices, blocks.keys(x.k), blocks.keys(x.v))
    dq, (dk, dv) = jax.lax.scan(of_keys, dq, keys)
    dq = jax.vmap(lambda a: merge(a, x.q.dtype))(dq)
    return Differentials(
        _joined(dq, x.q.shape[1]),
        _joined(dk.astype(x.k.dtype), x.k.shape[1]),
        _joined(dv.astype(x.v.dtype), x.k.shape[1]),
    )


def _run(
    x: Operands, t: Differentials | None, spec: Spec
) -> tuple[Output, LogSumExp, Output | None]:
    blocks = _Blocks(x, spec)
    g, dtype = x.k.shape[2], x.q.dtype
    keys = [blocks.keys(a) for a in (x.k, x.v, *(() if t is None else (t.k, t.v)))]
    queries = [blocks.queries(a) for a in (x.q, *(() if t is None else (t.q,)))]

    def of_queries(block: Any) -> Any:
        i, *rows = block
        q = [split(a, g) for a in rows]

        def of_keys(state: _State, block: Any) -> tuple[_State, None]:
            j, *kv = block

            def add(state: _State, _: None) -> tuple[_State, None]:
                return _add(state, q, kv, blocks, i, j), None

            return blocks.unless_hidden(i, j, add, state, None)

        column = _zeros(q[0][..., :1], sum_dtype(dtype))
        wide = _zeros(q[0], sum_dtype(dtype))
        tangent = None if t is None else _Tangent(wide, column, column)
        start = _State(column - jnp.inf, column, wide, tangent)
        state, _ = jax.lax.scan(of_keys, start, (blocks.key_indices, *keys))
        seen = state.total > 0
        total = jnp.where(seen, state.total, 1)
        o = state.o / total
        lse = jnp.where(seen, state.level + jnp.log(total), -jnp.inf)
        to = None
        if state.tangent is not None:
            to = merge((state.tangent.g - state.tangent.mu * o) / total, dtype)
        return merge(o, dtype), by_head(lse), to

    o, lse, to = jax.lax.map(of_queries, (blocks.row_indices, *queries))
    n = x.q.shape[1]
    lse = jnp.moveaxis(lse, 0, 2).reshape(*lse.shape[1:3], -1)[..., :n]
    return _joined(o, n), lse, None if to is None else _joined(to, n)


def _add(state: _State, q: Any, kv: Any, blocks: "_Blocks", i: Array, j: Array) -> _State:
    """One block of keys, seen by one block of queries."""
    s = blocks.scores(q[0], kv[0], i, j)
    level = jnp.maximum(state.level, jnp.max(s, axis=-1, keepdims=True))
    base = jnp.where(level == -jnp.inf, 0, level)
    old, p = jnp.exp(state.level - base), jnp.exp(s - base)
    sum_p = jnp.sum(p, axis=-1, keepdims=True)
    tangent = None
    if state.tangent is not None:
        g, mu, shift = state.tangent
        ts = blocks.spec.scale * (products(q[1], kv[0]) + products(q[0], kv[2]))
        mean = jnp.sum(p * ts, axis=-1, keepdims=True) / jnp.where(sum_p > 0, sum_p, 1)
        shift = jnp.where(state.total > 0, shift, mean)
        h = p * (ts - shift)
        tangent = _Tangent(
            g=old * g + mix(h, kv[1]) + mix(p, kv[3]),
            mu=old * mu + jnp.sum(h, axis=-1, keepdims=True),
            shift=shift,
        )
    return _State(level, old * state.total + sum_p, old * state.o + mix(p, kv[1]), tangent)


class _Blocks:
    """How queries and keys are cut, and what a block of the scores is."""

    def __init__(self, x: Operands, spec: Spec) -> None:
        self.x, self.spec = x, spec
        self.n, self.m = x.q.shape[1], x.k.shape[1]
        self.rows_in, self.columns_in = min(BLOCK, self.n), min(BLOCK, self.m)
        self.row_indices = jnp.arange(-(-self.n // self.rows_in))
        self.key_indices = jnp.arange(-(-self.m // self.columns_in))

    def queries(self, a: Float[Array, "b n h d"]) -> Float[Array, "blocks b rows h d"]:
        return _cut(a, self.rows_in, 1)

    def keys(self, a: Float[Array, "b m g d"]) -> Float[Array, "blocks b columns g d"]:
        return _cut(a, self.columns_in, 1)

    def rows(self, a: Float[Array, "b h n"]) -> Float[Array, "blocks b h rows"]:
        return _cut(a, self.rows_in, 2)

    def unless_hidden(
        self, i: Array, j: Array, add: Callable[..., Any], carry: Any, rest: Any
    ) -> Any:
        """`add(carry, rest)`, but nothing where causality hides all keys from all queries."""
        if not self.spec.causal:
            return add(carry, rest)
        last = jnp.minimum((i + 1) * self.rows_in, self.n) - 1 + self.m - self.n
        seen = j * self.columns_in <= last
        return jax.lax.cond(seen, add, lambda carry, rest: (carry, rest), carry, rest)

    def scores(self, q: Values, k: Float[Array, "b columns g d"], i: Array, j: Array) -> Scores:
        s = self.spec.scale * products(q, k)
        shape = (1, 1, 1, self.rows_in, self.columns_in)
        rows = i * self.rows_in + jax.lax.broadcasted_iota(i.dtype, shape, 3)
        columns = j * self.columns_in + jax.lax.broadcasted_iota(j.dtype, shape, 4)
        if self.m % self.columns_in:
            s = jnp.where(columns < self.m, s, -jnp.inf)
        if self.spec.causal:
            s = jnp.where(columns <= rows + self.m - self.n, s, -jnp.inf)
        if self.x.mask is not None:
            mask = _slice(self.x.mask, i, self.rows_in, 2)
            mask = _slice(mask, j, self.columns_in, 3)
            s = jnp.where(grouped(mask, k.shape[2]), s, -jnp.inf)
        return s


def _cut(a: Array, size: int, axis: int) -> Array:
    """Blocks of `size` along `axis`, in front; the last one is filled with zeros."""
    widths = [(0, -a.shape[axis] % size if i == axis else 0) for i in range(a.ndim)]
    a = jnp.pad(a, widths)
    return jnp.moveaxis(a.reshape(*a.shape[:axis], -1, size, *a.shape[axis + 1 :]), axis, 0)


def _joined(a: Float[Array, "blocks b rows h d"], n: int) -> Float[Array, "b n h d"]:
    a = jnp.moveaxis(a, 0, 1)
    return a.reshape(a.shape[0], -1, *a.shape[3:])[:, :n]


def _slice(mask: Array, i: Array, size: int, axis: int) -> Array:
    """Block `i` of the mask along `axis`, or the mask where it is one for all there."""
    if mask.shape[axis] == 1:
        return mask
    mask = jnp.pad(mask, [(0, -mask.shape[axis] % size if k == axis else 0) for k in range(4)])
    return jax.lax.dynamic_slice_in_dim(mask, i * size, size, axis)


def _zeros(like: Array, dtype: jnp.dtype) -> Array:
    """Zeros with the sharding of `like`, whatever its values; `zeros_like` does not keep it."""
    return jnp.where(jnp.isnan(like), 0, 0).astype(dtype)
