r"""Attention in Pallas-Triton: scores stay on chip, block by block.

Kernels read and write `b n h d` as it lies in memory. With $s = \mathrm{scale}\, q k^T$ for a block
of keys, row maximum $r$ and $p = e^{s - r}$, forward keeps $l = \sum p$ and $O = p v$, rescaled as $r$
grows. Dual keeps in the same pass, with $\dot s = \mathrm{scale} (\dot q k^T + q \dot k^T) - c$ and
$w = p \circ \dot s$,

$$\mu = \textstyle\sum w, \qquad G = w v + p \dot v, \qquad
  \dot o = \frac{1}{l} \Big(G - \frac{\mu}{l} O\Big) .$$

The result does not depend on a row's number $c$, its rounding does: what a time embedding adds to
the tangent of every key alike would cancel only between $G$ and $\mu O$, after $w$ was rounded. $c$
is the mean of the tangent scores under $p$ over the first block in which the row sees a key.
Exponentials are base 2. (arXiv 2307.08691, Section 3; arXiv 2410.11081, Appendix F.)
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Bool, Float

from scmkit_attention.problem import (
    Differentials,
    LogSumExp,
    Operands,
    Output,
    Spec,
    precision,
)

_LOG2E = math.log2(math.e)
_F32 = jnp.float32

_Layout = str
"""How an array lies in memory: "queries" `b n h d`, "keys" `b m g d` or "rows" `b h n`."""

_Ref = Any
"""Memory that a kernel reads and writes."""

_Index = Any
"""An int32, traced in a kernel."""


def unsupported(x: Operands, spec: Spec) -> str | None:
    """What of the call these kernels cannot do; None if they can do it."""
    del spec
    d = x.q.shape[3]
    if x.bias is not None:
        return "additive bias"
    if x.q.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return jnp.dtype(x.q.dtype).name
    if not x.q.dtype == x.k.dtype == x.v.dtype:
        return "operands of different dtypes"
    if not 1 <= d <= 256:
        return f"head_dim {d} > 256" if d else "head_dim 0"
    if 0 in (*x.q.shape, *x.k.shape):
        return "empty operands"
    # Offsets are computed in int32.
    if any(math.prod(a.shape) >= 2**31 for a in x if a is not None):
        return "operands of 2^31 or more elements"
    return None


def forward(x: Operands, spec: Spec, *, interpret: bool = False) -> tuple[Output, LogSumExp]:
    """Output and log-sum-exp."""
    out = [_like("queries", x.q), _row_sums(x.q)]
    o, lse = _run("attention_forward", _forward_kernel, x, spec, [], out, interpret)
    return o, lse


def dual(
    x: Operands, t: Differentials, spec: Spec, *, interpret: bool = False
) -> tuple[Output, LogSumExp, Output]:
    """Output, log-sum-exp and the output's tangent, in one pass over the keys."""
    more = [("queries", t.q), ("keys", t.k), ("keys", t.v)]
    out = [_like("queries", x.q), _row_sums(x.q), _like("queries", x.q)]
    o, lse, to = _run("attention_dual", _dual_kernel, x, spec, more, out, interpret)
    return o, lse, to


def backward(
    x: Operands, o: Output, lse: LogSumExp, do: Output, spec: Spec, *, interpret: bool = False
) -> Differentials:
    """Cotangents of the operands for the cotangent `do` of the output `o`."""
    delta = jnp.sum(o.astype(_F32) * do.astype(_F32), axis=-1).swapaxes(1, 2)
    more = [("queries", do), ("rows", lse), ("rows", delta)]
    out = [_like("queries", x.q)]
    (dq,) = _run("attention_dq", _dq_kernel, x, spec, more, out, interpret)
    out = [_like("keys", x.k), _like("keys", x.v)]
    dk, dv = _run("attention_dkv", _dkv_kernel, x, spec, more, out, interpret)
    return Differentials(dq, dk, dv)


# --- one call --------------------------------------------------------------------------------------


class _Blocks(NamedTuple):
    queries: int
    keys: int
    warps: int


_BLOCKS = {
    # (bytes of an element, largest head dimension): forward, dual, dq, dkv
    (2, 64): (_Blocks(128, 64, 8), _Blocks(128, 64, 8), _Blocks(128, 64, 8), _Blocks(64, 128, 8)),
    (2, 128): (_Blocks(128, 64, 8), _Blocks(128, 32, 8), _Blocks(64, 64, 8), _Blocks(64, 64, 8)),
    (2, 256): (_Blocks(64, 32, 8), _Blocks(32, 16, 8), _Blocks(32, 32, 8), _Blocks(32, 32, 8)),
    (4, 64): (_Blocks(64, 32, 8), _Blocks(16, 16, 8), _Blocks(64, 32, 8), _Blocks(64, 32, 8)),
    (4, 128): (_Blocks(32, 32, 8), _Blocks(16, 16, 8), _Blocks(32, 32, 8), _Blocks(32, 32, 8)),
    (4, 256): (_Blocks(16, 16, 8), _Blocks(16, 16, 8), _Blocks(16, 16, 8), _Blocks(16, 16, 8)),
}
"""The largest tried that compile for capability 8.9, which has the least shared memory (99 KiB), and
of which ptxas spills no register, or the fewest, for 9.0: none in 16 bits up to 128, at most 16 bytes
in float32 up to 64; dual spills beyond."""


def _blocks(name: str, width: int, dtype: jnp.dtype) -> _Blocks:
    kernels = ("attention_forward", "attention_dual", "attention_dq", "attention_dkv")
    return _BLOCKS[jnp.dtype(dtype).itemsize, max(64, width)][kernels.index(name)]


@dataclass(frozen=True)
class _Call:
    """What a kernel is compiled for."""

    n: int
    m: int
    d: int
    width: int
    """Head dimension of tiles, a power of two; they are zero beyond `d`."""
    bq: int
    """Queries in a tile."""
    bk: int
    """Keys in a tile."""
    group: int
    """Query heads of a key head."""
    scale: float
    causal: bool
    mask: tuple[bool, bool, bool, bool] | None
    """Which dimensions of the mask are full; one of them is queries or keys."""
    precision: lax.Precision | None

    @property
    def padded_n(self) -> int:
        return pl.cdiv(self.n, self.bq) * self.bq

    @property
    def padded_m(self) -> int:
        return pl.cdiv(self.m, self.bk) * self.bk


def _run(
    name: str,
    kernel: Callable[..., None],
    x: Operands,
    spec: Spec,
    more: Sequence[tuple[_Layout, Array]],
    out: Sequence[tuple[_Layout, jax.ShapeDtypeStruct]],
    interpret: bool,
) -> Sequence[Array]:
    """`kernel(x, *more, *out)` with references for arrays, for every (block, head, sample).

    Blocks are those of `out`: of queries for every query head, or of keys for every key head.
    References to inputs hold all queries or keys of the sample and head (those of the whole group of
    query heads, for a key head), references to outputs hold the block. Both may reach beyond the
    array's end; kernels do not.
    """
    (b, n, h, d), (_, m, g, _) = x.q.shape, x.k.shape
    over_keys = out[0][0] == "keys"
    blocks = _blocks(name, _tile_size(d), x.q.dtype)
    mask = x.mask
    if mask is not None and mask.shape[2:] == (1, 1):
        mask = jnp.broadcast_to(mask, (*mask.shape[:3], m))
    c = _Call(
        n=n,
        m=m,
        d=d,
        width=_tile_size(d),
        bq=min(blocks.queries, _tile_size(n)),
        bk=min(blocks.keys, _tile_size(m)),
        group=h // g,
        scale=spec.scale,
        causal=spec.causal,
        mask=None if mask is None else _full(mask),
        precision=precision(x.q.dtype),
    )
    heads = c.group if over_keys else None
    key_head = (lambda j: j) if over_keys else (lambda j: lax.div(j, np.int32(c.group)))
    read: dict[_Layout, Any] = {
        "queries": pl.BlockSpec((None, c.padded_n, heads, c.width), lambda i, j, k: (k, 0, j, 0)),
        "keys": pl.BlockSpec(
            (None, c.padded_m, None, c.width), lambda i, j, k: (k, 0, key_head(j), 0)
        ),
        "rows": pl.BlockSpec((None, heads, c.padded_n), lambda i, j, k: (k, j, 0)),
    }
    write = {
        "queries": pl.BlockSpec((None, c.bq, None, c.width), lambda i, j, k: (k, i, j, 0)),
        "keys": pl.BlockSpec((None, c.bk, None, c.width), lambda i, j, k: (k, i, j, 0)),
        "rows": pl.BlockSpec((None, None, c.bq), lambda i, j, k: (k, j, i)),
    }
    mask, mask_spec = _mask_and_spec(mask, heads, c)
    rows_end = ((0, 0), (0, 0), (0, c.padded_n - n))
    call = pl.pallas_call(
        functools.partial(kernel, c=c),
        grid=(c.padded_m // c.bk, g, b) if over_keys else (c.padded_n // c.bq, h, b),
        in_specs=[
            Operands(read["queries"], read["keys"], read["keys"], mask_spec),
            *(read[layout] for layout, _ in more),
        ],
        out_specs=[write[layout] for layout, _ in out],
        out_shape=[shape for _, shape in out],
        # JAX's default has been Triton, Mosaic and Triton again.
        compiler_params=pltriton.CompilerParams(num_warps=blocks.warps, num_stages=2),
        interpret=interpret,
        name=name,
    )
    return call(
        Operands(x.q, x.k, x.v, mask),
        *(jnp.pad(a, rows_end) if layout == "rows" else a for layout, a in more),
    )


def _full(mask: Bool[Array, "#b #h #n #m"]) -> tuple[bool, bool, bool, bool]:
    b, h, n, m = (size > 1 for size in mask.shape)
    return b, h, n, m or not n


def _mask_and_spec(
    mask: Bool[Array, "#b #h #n #m"] | None, heads: int | None, c: _Call
) -> tuple[Any, Any]:
    """The mask in bytes, false beyond the last query and key, without the dimensions of size 1."""
    if mask is None or c.mask is None:
        return None, None
    b, h, n, m = c.mask
    sizes = (c.padded_n if n else None, c.padded_m if m else None)
    ends = [
        (0, 0 if size is None else size - a) for size, a in zip(sizes, mask.shape[2:], strict=True)
    ]
    spec = pl.BlockSpec(
        (None, heads if h else None, *sizes),
        lambda i, j, k: (k if b else 0, j if h else 0, 0, 0),
    )
    return jnp.pad(mask.astype(jnp.int8), ((0, 0), (0, 0), *ends)), spec


def _like(layout: _Layout, a: Array) -> tuple[_Layout, jax.ShapeDtypeStruct]:
    return layout, _result(a, a.shape, a.dtype)


def _row_sums(q: Array) -> tuple[_Layout, jax.ShapeDtypeStruct]:
    b, n, h, _ = q.shape
    return "rows", _result(q, (b, h, n), _F32)


def _result(like: Array, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """A result that varies over the mesh of a `shard_map` as `like` does."""
    varying = jax.typeof(like).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying)


def _tile_size(size: int) -> int:
    """The next power of two that tensor cores can multiply."""
    return max(16, pl.next_power_of_2(size))


# --- kernels ---------------------------------------------------------------------------------------


def _forward_kernel(x: Operands, o_ref: _Ref, lse_ref: _Ref, *, c: _Call) -> None:
    _attend(x, None, o_ref, lse_ref, None, c)


def _dual_kernel(
    x: Operands,
    tq_ref: _Ref,
    tk_ref: _Ref,
    tv_ref: _Ref,
    o_ref: _Ref,
    lse_ref: _Ref,
    to_ref: _Ref,
    *,
    c: _Call,
) -> None:
    _attend(x, Differentials(tq_ref, tk_ref, tv_ref), o_ref, lse_ref, to_ref, c)


def _attend(
    x: Operands, t: Differentials | None, o_ref: _Ref, lse_ref: _Ref, to_ref: _Ref, c: _Call
) -> None:
    """Output and log-sum-exp of a block of queries and, given tangents, the output's tangent."""
    start = pl.program_id(0) * c.bq
    q = _load(x.q, start, c.bq, c.n, c)
    tq: Any = None if t is None else _load(t.q, start, c.bq, c.n, c)

    def step(j: _Index, carry: tuple[Array, ...], *, edge: bool) -> tuple[Array, ...]:
        keys = functools.partial(
            _load, start=j * c.bk, size=c.bk, length=c.m if edge else None, c=c
        )
        k, v = keys(x.k), keys(x.v)
        seen = _seen(x.mask, start, j * c.bk, c) if edge else None
        top, l, o, *sums = carry
        s = _where(seen, _dot(q, k, c, transpose=True) * (c.scale * _LOG2E), -jnp.inf)
        new = jnp.maximum(top, jnp.max(s, axis=1))
        shift = jnp.where(new == -jnp.inf, 0.0, new)
        p = jnp.exp2(s - shift[:, None])
        shrink = jnp.exp2(top - shift)
        total = jnp.sum(p, axis=1)
        low = p.astype(v.dtype)
        if t is not None:
            mu, g, mean = sums
            tk, tv = keys(t.k), keys(t.v)
            ts = (_dot(q, tk, c, transpose=True) + _dot(tq, k, c, transpose=True)) * c.scale
            w = p * _where(seen, ts, 0.0)
            sum_w = jnp.sum(w, axis=1)
            # A row that has seen a key has l >= 1, and a block in which it sees one has total >= 1.
            mean = jnp.where(l == 0, sum_w / jnp.maximum(total, 1.0), mean)
            mu = mu * shrink + (sum_w - mean * total)
            w = w - mean[:, None] * p
            g = g * shrink[:, None] + _dot(w.astype(v.dtype), v, c) + _dot(low, tv, c)
            sums = (mu, g, mean)
        l = l * shrink + total
        o = o * shrink[:, None] + _dot(low, v, c)
        return new, l, o, *sums

    row, tile = jnp.zeros(c.bq, _F32), jnp.zeros((c.bq, c.width), _F32)
    init = (row - jnp.inf, row, tile, *(() if t is None else (row, tile, row)))
    top, l, o, *sums = _loop(_key_spans(start, c), step, init)
    l = jnp.where(l == 0, 1.0, l)
    o = o / l[:, None]
    _store(o_ref, start, o, c.n, c)
    rows = start + lax.iota(jnp.int32, c.bq) < c.n
    lse = (top + jnp.log2(l)) / _LOG2E
    pltriton.store(lse_ref, lse, mask=rows)
    if t is not None:
        mu, g, _ = sums
        _store(to_ref, start, g / l[:, None] - (mu / l)[:, None] * o, c.n, c)


def _dq_kernel(
    x: Operands, do_ref: _Ref, lse_ref: _Ref, delta_ref: _Ref, dq_ref: _Ref, *, c: _Call
) -> None:
    """Cotangent of a block of queries."""
    start = pl.program_id(0) * c.bq
    rows = pl.ds(start, c.bq)
    q, do = _load(x.q, start, c.bq, c.n, c), _load(do_ref, start, c.bq, c.n, c)
    lse, delta = lse_ref[rows] * _LOG2E, delta_ref[rows]

    def step(j: _Index, dq: Array, *, edge: bool) -> Array:
        keys = functools.partial(
            _load, start=j * c.bk, size=c.bk, length=c.m if edge else None, c=c
        )
        k, v = keys(x.k), keys(x.v)
        seen = _seen(x.mask, start, j * c.bk, c) if edge else None
        s = _dot(q, k, c, transpose=True) * (c.scale * _LOG2E)
        p = _where(seen, jnp.exp2(s - lse[:, None]), 0.0)
        ds = p * (_dot(do, v, c, transpose=True) - delta[:, None])
        return dq + _dot(ds.astype(k.dtype), k, c)

    dq = _loop(_key_spans(start, c), step, jnp.zeros((c.bq, c.width), _F32))
    _store(dq_ref, start, dq * c.scale, c.n, c)


def _dkv_kernel(
    x: Operands,
    do_ref: _Ref,
    lse_ref: _Ref,
    delta_ref: _Ref,
    dk_ref: _Ref,
    dv_ref: _Ref,
    *,
    c: _Call,
) -> None:
    """Cotangents of a block of keys and values. Scores are transposed: they multiply from the left."""
    start = pl.program_id(0) * c.bk
    k, v = _load(x.k, start, c.bk, c.m, c), _load(x.v, start, c.bk, c.m, c)

    def of_head(head: _Index, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        def step(i: _Index, carry: tuple[Array, Array], *, edge: bool) -> tuple[Array, Array]:
            dk, dv = carry
            rows = pl.ds(i * c.bq, c.bq)
            q = _load(x.q, i * c.bq, c.bq, c.n, c, head)
            do = _load(do_ref, i * c.bq, c.bq, c.n, c, head)
            lse, delta = lse_ref[head, rows] * _LOG2E, delta_ref[head, rows]
            seen = _seen(x.mask, i * c.bq, start, c, head, transpose=True) if edge else None
            s = _dot(k, q, c, transpose=True) * (c.scale * _LOG2E)
            p = _where(seen, jnp.exp2(s - lse[None, :]), 0.0)
            ds = p * (_dot(v, do, c, transpose=True) - delta[None, :])
            return dk + _dot(ds.astype(q.dtype), q, c), dv + _dot(p.astype(do.dtype), do, c)

        return _loop(_query_spans(start, c), step, carry)

    zero = jnp.zeros((c.bk, c.width), _F32)
    dk, dv = lax.fori_loop(np.int32(0), np.int32(c.group), of_head, (zero, zero))
    _store(dk_ref, start, dk * c.scale, c.m, c)
    _store(dv_ref, start, dv, c.m, c)


# --- blocks to visit -------------------------------------------------------------------------------

_Span = tuple[_Index, _Index, bool]
"""First block, the one after the last, and whether some query does not see some key there."""


def _key_spans(first_query: _Index, c: _Call) -> list[_Span]:
    """Blocks of keys that a block of queries sees."""
    whole, stop = np.int32(c.m // c.bk), np.int32(pl.cdiv(c.m, c.bk))
    if c.causal:
        first = first_query + (c.m - c.n + 1)
        whole = lax.min(whole, _floor_div(first, c.bk))
        stop = lax.min(stop, _floor_div(first + (c.bq + c.bk - 2), c.bk))
    if c.mask is not None:
        whole = np.int32(0)
    return [(np.int32(0), whole, False), (whole, stop, True)]


def _query_spans(first_key: _Index, c: _Call) -> list[_Span]:
    """Blocks of queries that see a block of keys."""
    start, whole, stop = np.int32(0), np.int32(0), np.int32(pl.cdiv(c.n, c.bq))
    if c.causal:
        first = first_key - (c.m - c.n)
        start = _floor_div(first, c.bq)
        whole = lax.min(stop, _floor_div(first + (c.bk + c.bq - 2), c.bq))
    if c.mask is not None:
        whole = stop
    return [(start, whole, True), (whole, stop, False)]


def _floor_div(a: _Index, b: int) -> _Index:
    """`a // b`, or 0 for negative `a`."""
    return lax.div(lax.max(a, np.int32(0)), np.int32(b))


def _loop(spans: list[_Span], step: Callable[..., Any], carry: Any) -> Any:
    for start, stop, edge in spans:
        if not (isinstance(start, np.generic) and isinstance(stop, np.generic) and start == stop):
            carry = lax.fori_loop(start, stop, functools.partial(step, edge=edge), carry)
    return carry


# --- tiles -----------------------------------------------------------------------------------------


def _dot(a: Array, b: Array, c: _Call, *, transpose: bool = False) -> Float[Array, "i j"]:
    """`a b`, or `a b^T`, summed in float32."""
    contract = ((1,), (int(transpose),))
    return lax.dot_general(
        a, b, (contract, ((), ())), precision=c.precision, preferred_element_type=_F32
    )


def _where(seen: Bool[Array, "..."] | None, a: Array, otherwise: float) -> Array:
    return a if seen is None else jnp.where(seen, a, otherwise)


def _load(
    ref: _Ref,
    start: _Index,
    size: int,
    length: int | None,
    c: _Call,
    head: _Index | None = None,
) -> Float[Array, "size width"]:
    """Rows of queries or keys, zero beyond `length` and beyond the head dimension."""
    at = (pl.ds(start, size), *(() if head is None else (head,)), slice(None))
    inside = _inside(start, size, length, c)
    return ref[at] if inside is None else pltriton.load(ref.at[at], mask=inside, other=0.0)


def _store(
    ref: _Ref, start: _Index, tile: Float[Array, "size width"], length: int, c: _Call
) -> None:
    """Writes what the array has of a tile that starts at `start`."""
    inside = _inside(start, tile.shape[0], length, c)
    pltriton.store(ref, tile.astype(ref.dtype), mask=inside)


def _inside(
    start: _Index, size: int, length: int | None, c: _Call
) -> Bool[Array, "size width"] | None:
    """Which elements of a tile the array has; None for all."""
    inside = None
    if length is not None and length % size:
        inside = (start + lax.iota(jnp.int32, size) < length)[:, None]
    if c.width != c.d:
        columns = (lax.iota(jnp.int32, c.width) < c.d)[None, :]
        inside = columns if inside is None else inside & columns
    return inside


def _seen(
    mask_ref: _Ref,
    first_query: _Index,
    first_key: _Index,
    c: _Call,
    head: _Index | None = None,
    *,
    transpose: bool = False,
) -> Bool[Array, "..."] | None:
    """Which keys of a tile its queries see; None for all."""
    across, down = (None, slice(None)), (slice(None), None)
    of_queries, of_keys = (across, down) if transpose else (down, across)
    queries = (first_query + lax.iota(jnp.int32, c.bq))[of_queries]
    keys = (first_key + lax.iota(jnp.int32, c.bk))[of_keys]
    seen = keys < c.m if c.m % c.bk else None
    if c.causal:
        past = keys <= queries + (c.m - c.n)
        seen = past if seen is None else seen & past
    if c.mask is not None:
        _, full_heads, full_queries, full_keys = c.mask
        at = (head,) if full_heads and head is not None else ()
        at += (pl.ds(first_query, c.bq),) if full_queries else ()
        at += (pl.ds(first_key, c.bk),) if full_keys else ()
        mask = mask_ref[at] != 0
        if not full_queries:
            mask = mask[of_keys]
        elif not full_keys:
            mask = mask[of_queries]
        elif transpose:
            mask = mask.T
        seen = mask if seen is None else seen & mask
    return seen
