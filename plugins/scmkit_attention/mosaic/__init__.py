"""Attention in Pallas-Mosaic for Hopper GPUs: TMA loads, `wgmma`, one warpgroup that loads ahead."""

import math

import jax.numpy as jnp
from jaxtyping import Array

from scmkit_attention.mosaic.backward import key_value_cotangents, query_cotangents
from scmkit_attention.mosaic.common import ROWS
from scmkit_attention.mosaic.extent import Extent
from scmkit_attention.mosaic.forward import attend
from scmkit_attention.mosaic.tiles import TILES, Kernel
from scmkit_attention.problem import Differentials, LogSumExp, Operands, Output, Spec

_BACKWARD: tuple[Kernel, Kernel] = "attention_dq", "attention_dkv"


def unsupported(x: Operands, spec: Spec) -> str | None:
    """What of the call these kernels cannot do; None if they can do it."""
    d = x.q.shape[3]
    if x.bias is not None:
        return "additive bias"
    if x.mask is not None:
        return "masks"
    if x.q.dtype not in (jnp.bfloat16, jnp.float16):
        return jnp.dtype(x.q.dtype).name
    if not x.q.dtype == x.k.dtype == x.v.dtype:
        return "operands of different dtypes"
    if not 32 < d <= 128:
        return f"head_dim {d} > 128" if d > 128 else f"head_dim {d} <= 32"
    if 0 in (*x.q.shape, *x.k.shape):
        return "empty operands"
    if not spec.scale > 0:
        return f"scale {spec.scale} <= 0"
    return None


def forward(x: Operands, spec: Spec, *, interpret: bool = False) -> tuple[Output, LogSumExp]:
    """Output and log-sum-exp."""
    lse, (o,) = attend(
        _padded(x, "attention_forward"), None, spec.scale, _extent(x, spec), interpret
    )
    return _cut(o, x.q), lse[:, :, : x.q.shape[1]]


def dual(
    x: Operands, t: Differentials, spec: Spec, *, interpret: bool = False
) -> tuple[Output, LogSumExp, Output]:
    """Output, log-sum-exp and the output's tangent, in one kernel."""
    name: Kernel = "attention_dual"
    tangents = _padded(Operands(t.q, t.k, t.v), name)
    lse, (o, to) = attend(
        _padded(x, name), Differentials(*tangents[:3]), spec.scale, _extent(x, spec), interpret
    )
    return _cut(o, x.q), lse[:, :, : x.q.shape[1]], _cut(to, x.q)


def backward(
    x: Operands, o: Output, lse: LogSumExp, do: Output, spec: Spec, *, interpret: bool = False
) -> Differentials:
    """Cotangents of the operands for the cotangent `do` of the output, in two kernels."""
    delta = jnp.sum(o.astype(jnp.float32) * do.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    # A row that saw nothing has no finite level; its weights are zero whatever it is.
    level = jnp.where(lse == -jnp.inf, 0, lse * math.log2(math.e))
    extent = _extent(x, spec)
    # Rows of either kernel, and blocks of the other.
    d = _head_dim(x)
    rows = math.lcm(*(r for name in _BACKWARD for r in _sizes(name, d)))
    padded, do = Operands(*(_pad(a, rows, d) for a in x[:3])), _pad(do, rows, d)
    numbers = [jnp.pad(a, ((0, 0), (0, 0), (0, -a.shape[2] % rows))) for a in (level, delta)]
    arguments = padded, do, numbers[0], numbers[1], spec.scale, extent, interpret
    dq = query_cotangents(*arguments)
    dk, dv = key_value_cotangents(*arguments)
    return Differentials(_cut(dq, x.q), _cut(dk, x.k), _cut(dv, x.v))


def _extent(x: Operands, spec: Spec) -> Extent:
    return Extent(x.q.shape[1], x.k.shape[1], spec.causal)


def _padded(x: Operands, name: Kernel) -> Operands:
    """Operands padded with zeros to whole tiles, and to a head_dim that has a kernel."""
    d = _head_dim(x)
    rows, block = _sizes(name, d)
    return Operands(_pad(x.q, rows, d), _pad(x.k, block, d), _pad(x.v, block, d))


def _head_dim(x: Operands) -> int:
    return 64 if x.q.shape[3] <= 64 else 128


def _sizes(name: Kernel, d: int) -> tuple[int, int]:
    """Rows that one program keeps, and of one step."""
    tile = TILES[name, d]
    return ROWS * tile.warpgroups, tile.block


def _pad(a: Array, rows: int, d: int) -> Array:
    size = ((0, 0), (0, -a.shape[1] % rows), (0, 0), (0, d - a.shape[3]))
    return jnp.pad(a, size) if any(high for _, high in size) else a


def _cut(a: Array, like: Array) -> Array:
    return a[:, : like.shape[1], :, : like.shape[3]]
