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
from jaxtyping import Array, Bool

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
    by_group,
    by_head,
    grouped,
    merge,
    mix,
    mix_transposed,
    products,
    split,
)

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
    q = split(x.q, x.k.shape[2])
    e, total, lse = _weights(_scores(q, x, spec))
    return merge(mix(e, x.v) / total, x.q.dtype), lse


def dual(x: Operands, t: Differentials, spec: Spec) -> tuple[Output, LogSumExp, Output]:
    """Output, log-sum-exp and the output's tangent."""
    g = x.k.shape[2]
    q, tq = split(x.q, g), split(t.q, g)
    e, total, lse = _weights(_scores(q, x, spec))
    s = spec.scale * (products(tq, x.k) + products(q, t.k))
    if t.bias is not None:
        s = s + grouped(t.bias.astype(s.dtype), g)
    allowed = visible(x, spec)
    if allowed is not None:
        s = jnp.where(allowed, s, 0)
    s = s - jnp.sum(e * s, axis=-1, keepdims=True) / total
    o, to = mix(e, x.v), mix(e * s, x.v) + mix(e, t.v)
    return merge(o / total, x.q.dtype), lse, merge(to / total, x.q.dtype)


def backward(x: Operands, o: Output, lse: LogSumExp, do: Output, spec: Spec) -> Differentials:
    """Cotangents of the operands for the cotangent `do` of the output `o`."""
    g, dtype = x.k.shape[2], sum_dtype(x.q.dtype)
    q, o, do = split(x.q, g), split(o, g), split(do, g)
    p = jnp.exp(_scores(q, x, spec) - by_group(jnp.where(jnp.isfinite(lse), lse, 0), g))
    delta = jnp.sum(o.astype(dtype) * do.astype(dtype), axis=-1, keepdims=True)
    ds = p * (products(do, x.v) - delta)
    return Differentials(
        q=merge(spec.scale * mix(ds, x.k), x.q.dtype),
        k=(spec.scale * mix_transposed(ds, q)).astype(x.k.dtype),
        v=mix_transposed(p, do).astype(x.v.dtype),
        bias=None if x.bias is None else ds.reshape(x.bias.shape).astype(x.bias.dtype),
    )


def visible(x: Operands, spec: Spec) -> Bool[Array, "..."] | None:
    """Which keys a query may see, to broadcast against scores; None for all of them."""
    allowed = None if x.mask is None else grouped(x.mask, x.k.shape[2])
    if spec.causal:
        n, m = x.q.shape[1], x.k.shape[1]
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, (1, 1, 1, n, m), i) for i in (3, 4))
        causal = columns <= rows + (m - n)
        allowed = causal if allowed is None else allowed & causal
    return allowed


def _scores(q: Array, x: Operands, spec: Spec) -> Scores:
    s = spec.scale * products(q, x.k)
    if x.bias is not None:
        s = s + grouped(x.bias.astype(s.dtype), x.k.shape[2])
    allowed = visible(x, spec)
    return s if allowed is None else jnp.where(allowed, s, -jnp.inf)


def _weights(s: Scores) -> tuple[Scores, Rows, LogSumExp]:
    """`exp(s - max)`, its sums (1 where nothing is allowed), and the log-sum-exp."""
    # The result does not depend on the shift, so neither does its derivative.
    shift = jax.lax.stop_gradient(jnp.max(s, axis=-1, keepdims=True, initial=-jnp.inf))
    shift = jnp.where(shift == -jnp.inf, 0, shift)
    e = jnp.exp(s - shift)
    total = jnp.sum(e, axis=-1, keepdims=True)
    safe = jnp.where(total == 0, 1, total)
    lse = jnp.where(total == 0, -jnp.inf, shift + jnp.log(safe))
    return e, safe, by_head(lse)
