r"""Attention in plain XLA with all scores in memory: fastest for short sequences, and the definition.

With $S = \mathrm{scale}\, q k^T + bias$ where allowed and $-\infty$ elsewhere, $P = \mathrm{softmax}(S)$
over keys, $o = P v$ and $\ell = \mathrm{logsumexp}(S)$:

$$\dot o = \big(P \circ (\dot S - \mu)\big) v + P \dot v, \qquad
  \mu = \mathrm{rowsum}(P \circ \dot S)$$
$$\bar v = P^T \bar o, \qquad \bar S = P \circ (\bar o v^T - \mathrm{rowsum}(\bar o \circ o))$$

A row in which nothing is allowed has output, tangent and gradient zero. (arXiv 2410.11081,
Appendix F; arXiv 2307.08691, Section 2.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scmkit.fused_attention.problem import (
    Differentials,
    LogSumExp,
    Operands,
    Output,
    Spec,
    precision,
    sum_dtype,
)

Scores = Float[Array, "b g r n m"]

LONGEST = 1024 * 1024
"""Queries times keys up to which all scores are kept; `blockwise` takes over from there."""


def unsupported(x: Operands, spec: Spec) -> str | None:
    """Why the blockwise form is better, or None."""
    n, m = x.q.shape[1], x.k.shape[1]
    if n * m > LONGEST and x.bias is None:
        return f"{n} queries by {m} keys"
    return None


def forward(x: Operands, spec: Spec) -> tuple[Output, LogSumExp]:
    """Output and log-sum-exp."""
    e, total, lse = _weights(_scores(x, spec))
    return _merge(_mix(e, x.v) / total, x.q.dtype), lse


def dual(x: Operands, t: Differentials, spec: Spec) -> tuple[Output, LogSumExp, Output]:
    """Output, log-sum-exp and the output's tangent."""
    e, total, lse = _weights(_scores(x, spec))
    s = spec.scale * (_products(t.q, x.k) + _products(x.q, t.k))
    if t.bias is not None:
        s = s + _grouped(t.bias, x.k.shape[2])
    allowed = visible(x, spec)
    if allowed is not None:
        s = jnp.where(allowed, s, 0)
    s = s - jnp.sum(e * s, axis=-1, keepdims=True) / _rows(total)
    o, to = _mix(e, x.v), _mix(e * s, x.v) + _mix(e, t.v)
    return _merge(o / total, x.q.dtype), lse, _merge(to / total, x.q.dtype)


def backward(x: Operands, o: Output, lse: LogSumExp, do: Output, spec: Spec) -> Differentials:
    """Cotangents of the operands for the cotangent `do` of the output `o`."""
    g, dtype = x.k.shape[2], sum_dtype(x.q.dtype)
    level = jnp.where(jnp.isfinite(lse), lse, 0)
    p = jnp.exp(_scores(x, spec) - level.reshape(level.shape[0], g, -1, level.shape[2], 1))
    delta = jnp.sum(o.astype(dtype) * do.astype(dtype), axis=-1)
    ds = p * (_products(do, x.v) - _split(delta[..., None], g).transpose(0, 2, 3, 1, 4))
    low, p = ds.astype(x.q.dtype), p.astype(x.q.dtype)
    product = {"precision": precision(x.q.dtype), "preferred_element_type": dtype}
    dq = spec.scale * jnp.einsum("bgrnm,bmgd->bngrd", low, x.k, **product)
    dk = spec.scale * jnp.einsum("bgrnm,bngrd->bmgd", low, _split(x.q, g), **product)
    dv = jnp.einsum("bgrnm,bngrd->bmgd", p, _split(do, g), **product)
    dbias = None
    if x.bias is not None:
        dbias = ds.reshape(x.bias.shape).astype(x.bias.dtype)
    return Differentials(
        _merge(dq, x.q.dtype), dk.astype(x.k.dtype), dv.astype(x.v.dtype), dbias
    )


def visible(x: Operands, spec: Spec) -> Bool[Array, "..."] | None:
    """Which keys a query may see, as `b g r n m` with ones where all agree; None for all of them."""
    allowed = None if x.mask is None else _grouped(x.mask, x.k.shape[2])
    if spec.causal:
        n, m = x.q.shape[1], x.k.shape[1]
        causal = jnp.arange(m)[None, :] <= jnp.arange(n)[:, None] + (m - n)
        allowed = causal if allowed is None else allowed & causal
    return allowed


def _scores(x: Operands, spec: Spec) -> Scores:
    s = spec.scale * _products(x.q, x.k)
    if x.bias is not None:
        s = s + _grouped(x.bias, x.k.shape[2])
    allowed = visible(x, spec)
    return s if allowed is None else jnp.where(allowed, s, -jnp.inf)


def _weights(s: Scores) -> tuple[Scores, Float[Array, "b n g r 1"], LogSumExp]:
    """`exp(s - max)`, its sums (1 where nothing is allowed), and the log-sum-exp."""
    # The result does not depend on the shift, so neither does its derivative.
    shift = jax.lax.stop_gradient(jnp.max(s, axis=-1, keepdims=True))
    shift = jnp.where(shift == -jnp.inf, 0, shift)
    e = jnp.exp(s - shift)
    total = jnp.sum(e, axis=-1, keepdims=True)
    safe = jnp.where(total == 0, 1, total)
    lse = jnp.where(total == 0, -jnp.inf, shift + jnp.log(safe))
    return e, jnp.moveaxis(safe, 3, 1), lse.reshape(s.shape[0], -1, s.shape[3])


def _rows(total: Float[Array, "b n g r 1"]) -> Scores:
    return jnp.moveaxis(total, 1, 3)


def _products(q: Output, k: Float[Array, "b m g d"]) -> Scores:
    q = _split(q, k.shape[2])
    return jnp.einsum(
        "bngrd,bmgd->bgrnm",
        q,
        k,
        precision=precision(q.dtype),
        preferred_element_type=sum_dtype(q.dtype),
    )


def _mix(e: Scores, v: Float[Array, "b m g d"]) -> Float[Array, "b n g r d"]:
    return jnp.einsum(
        "bgrnm,bmgd->bngrd",
        e.astype(v.dtype),
        v,
        precision=precision(v.dtype),
        preferred_element_type=sum_dtype(v.dtype),
    )


def _split(q: Float[Array, "b n h e"], g: int) -> Float[Array, "b n g r e"]:
    return q.reshape(*q.shape[:2], g, -1, q.shape[3])


def _merge(o: Float[Array, "b n g r d"], dtype: jnp.dtype) -> Output:
    return o.reshape(*o.shape[:2], -1, o.shape[4]).astype(dtype)


def _grouped(a: Array, g: int) -> Array:
    """A mask or bias `b h n m` as `b g r n m`; a single head stays single."""
    b, h, n, m = a.shape
    return a.reshape(b, 1, 1, n, m) if h == 1 else a.reshape(b, g, -1, n, m)
