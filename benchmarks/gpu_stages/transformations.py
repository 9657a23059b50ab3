"""Stage b: attention on this device under every transformation of JAX, against float64 on the CPU.

The projections around it round, too, so its error is held against that of the same program by XLA.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from scmkit_attention import attention_saveable
from scmkit_attention.problem import Implementation

import scmkit
from gpu_stages.kernels import checked, verdict
from gpu_stages.worker import Context, Row

LAYERS, BATCH, TOKENS, HEADS, HEAD_DIM = 2, 2, 192, 2, 64

TIMES_XLA, BESIDES = 1.5, 5e-3
"""A right result is at most so many times as far from the exact one as XLA's, and so much besides."""

Tokens = Float[Array, "b n h d"]
Params = Float[Array, "layers 3 d d"]
Network = Callable[..., Tokens]


def network(
    by: Implementation | None, mode: str, params: Params, x: Tokens, t: Float[Array, ""]
) -> Tokens:
    """Layers of attention by a kernel over projected tokens, in turn as `mode` says."""

    def layer(h: Tokens, p: Float[Array, "3 d d"]) -> Tokens:
        q, k, v = (jnp.einsum("bnhd,de->bnhe", h * (1 + t), w) for w in p)
        return h + scmkit.attention(q, k, v, implementation=by)

    body = layer
    if "checkpoint" in mode:
        body = jax.checkpoint(body)
    if "policy" in mode:
        body = jax.checkpoint(body, policy=attention_saveable)
    if "scan" in mode:
        return jax.lax.scan(lambda h, p: (body(h, p), None), x, params)[0]
    for p in params:
        x = body(x, p)
    return x


def scm(f: Network, p: Params, x: Tokens, v: Tokens, t: Array) -> dict[str, Array]:
    """The gradient of sCM's loss, whose tangent is held fixed."""

    def loss(p: Params) -> Array:
        F, dF = jax.jvp(partial(f, p), (x, t), (v, jnp.ones_like(t)))
        held = jax.lax.stop_gradient(dF.astype(jnp.float32) - F.astype(jnp.float32))
        return jnp.mean((F.astype(jnp.float32) + held) ** 2)

    return {"gradient": jax.grad(loss)(p)}


def tangent(f: Network, p: Params, x: Tokens, v: Tokens, t: Array) -> dict[str, Array]:
    return {"tangent": jax.jvp(partial(f, p), (x, t), (v, jnp.ones_like(t)))[1]}


def gradient(f: Network, p: Params, x: Tokens, v: Tokens, t: Array) -> dict[str, Array]:
    return {"gradient": jax.grad(lambda p: _inner(f(p, x, t), v))(p)}


def linearized(f: Network, p: Params, x: Tokens, v: Tokens, t: Array) -> dict[str, Array]:
    return {"tangent": jax.linearize(lambda x: f(p, x, t), x)[1](v)}


def many_tangents(f: Network, p: Params, x: Tokens, v: Tokens, t: Array) -> dict[str, Array]:
    push = lambda v: jax.jvp(lambda x: f(p, x, t), (x,), (v,))[1]  # noqa: E731
    return {"tangents": jax.vmap(push)(jnp.stack([v, 2 * v]))}


def per_sample(f: Network, p: Params, x: Tokens, v: Tokens, t: Array) -> dict[str, Array]:
    one = lambda x, v: jax.jvp(lambda x: f(p, x[None], t)[0], (x,), (v,))[1]  # noqa: E731
    return {"tangent": jax.vmap(one)(x, v)}


def tangent_of_pullback(f: Network, p: Params, x: Tokens, v: Tokens, t: Array) -> dict[str, Array]:
    def run(x: Tokens) -> Any:
        return jax.vjp(lambda p: f(p, x, t), p)

    F, dF, pull = jax.jvp(run, (x,), (v,), has_aux=True)
    return {"tangent": dF, "gradient": pull(F)[0]}


def second(f: Network, p: Params, x: Tokens, v: Tokens, t: Array) -> dict[str, Array]:
    """Forward over reverse, differentiated in full: no kernel, but kernels on the way."""
    g = lambda x: jax.grad(lambda x: _inner(f(p, x, t), v))(x)  # noqa: E731
    return {"curvature": jax.jvp(g, (x,), (v,))[1]}


def _inner(a: Array, b: Array) -> Float[Array, ""]:
    return jnp.mean(a.astype(jnp.float32) * b.astype(jnp.float32))


RUNS: dict[str, tuple[Callable[..., dict[str, Array]], str]] = {
    "sCM's gradient, scanned and rematerialized": (scm, "scan checkpoint"),
    "sCM's gradient, attention saved": (scm, "scan policy"),
    "sCM's gradient": (scm, ""),
    "jvp": (tangent, ""),
    "grad": (gradient, "scan"),
    "linearize": (linearized, ""),
    "vmap over tangents": (many_tangents, ""),
    "vmap over samples": (per_sample, "scan"),
    "jvp of vjp": (tangent_of_pullback, "checkpoint"),
    "jvp of grad": (second, ""),
}


def rows(context: Context) -> Iterator[Row]:
    """Each once, by whatever kernel this device has, in bfloat16; the reference is the same in float64."""
    tokens = 16 if context.rehearse else TOKENS
    keys = jr.split(jr.key(0), 3)
    p = jr.normal(keys[0], (LAYERS, 3, HEAD_DIM, HEAD_DIM), jnp.float32) / HEAD_DIM**0.5
    x, v = (jr.normal(k, (BATCH, tokens, HEADS, HEAD_DIM), jnp.float32) for k in keys[1:])
    low = [a.astype(jnp.bfloat16) for a in (p, x, v, jnp.float32(0.5))]
    wrong: list[str] = []
    for name, (run, mode) in list(RUNS.items())[: 2 if context.rehearse else None]:
        ours, plain = (partial(run, partial(network, by, mode)) for by in (None, "xla"))
        exact = _float64(plain, low)
        row: Row = {"transformation": name} | checked(
            lambda p=ours: jax.jit(p)(*low), exact, "bfloat16"
        )
        xla = checked(lambda p=plain: jax.jit(p)(*low), exact, "bfloat16")["errors"]
        bounds = {result: TIMES_XLA * error + BESIDES for result, error in xla.items()}
        off = row.get("errors", {})
        row["right"] = all(off.get(result, np.nan) <= bound for result, bound in bounds.items())
        wrong += [name] * (not row["right"])
        yield row | {"xla_errors": xla}
    yield verdict("transformations", wrong)


def _float64(program: Callable[..., dict[str, Array]], low: list[Array]) -> dict[str, np.ndarray]:
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        wide = [np.asarray(a).astype(np.float64) for a in low]
        return jax.tree.map(np.asarray, jax.jit(program)(*wide))
