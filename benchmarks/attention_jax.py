"""The contestants in JAX: this package's attention by each kernel, and JAX's own by XLA and cuDNN."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import attention_timing
import jax
import jax.numpy as jnp
import numpy as np
from attention_problem import RESULTS, Case, Op, checked, sources
from jaxtyping import Array, Float

import scmkit

Heads = Float[Array, "b n h d"]
Attention = Callable[[Heads, Heads, Heads], Heads]

PEERS = ("jax-xla", "jax-cudnn")

ARGUMENTS: dict[Op, tuple[str, ...]] = {
    "forward": ("q", "k", "v"),
    "fused": ("q", "k", "v", "tq", "tk", "tv"),
    "two passes": ("q", "k", "v", "tq", "tk", "tv"),
    "backward": ("q", "k", "v", "do"),
    "training": ("q", "k", "v", "tq", "tk", "tv"),
}


@dataclass(frozen=True)
class Measured:
    """One operation of one contestant."""

    timing: attention_timing.Timing
    temp_bytes: int
    results: dict[str, np.ndarray]
    """For the checked heads."""


def names(implementations: list[str]) -> list[str]:
    """All contestants, ours first."""
    return [f"scmkit-{name}" for name in implementations] + list(PEERS)


def attention(name: str, causal: bool) -> Attention:
    """A contestant's attention; raises where the device has no such kernel."""
    package, _, implementation = name.partition("-")
    options: dict[str, Any] = {"implementation": implementation}
    if package == "jax":
        return partial(jax.nn.dot_product_attention, is_causal=causal, **options)
    if implementation != "xla" and jax.default_backend() != "gpu":
        raise NotImplementedError(f"the {implementation} kernel needs a GPU")
    return partial(scmkit.attention, causal=causal, **options)


def program(op: Op, f: Attention) -> Callable[..., Any]:
    """An operation as a function of `ARGUMENTS`, returning what `RESULTS` names, first."""

    def fused(q: Heads, k: Heads, v: Heads, *t: Heads) -> tuple[Heads, Heads]:
        return jax.jvp(f, (q, k, v), t)

    def two_passes(q: Heads, k: Heads, v: Heads, *t: Heads) -> tuple[Heads, Heads]:
        # The barrier keeps XLA from merging what a program with two passes leaves apart.
        o, q, k, v, t = jax.lax.optimization_barrier((f(q, k, v), q, k, v, t))
        return o, fused(q, k, v, *t)[1]

    def training(*args: Heads) -> tuple[Array, ...]:
        value, grads = training_gradient(f, *args)
        return (*grads, value)

    programs: dict[Op, Callable[..., Any]] = {
        "forward": lambda q, k, v: (f(q, k, v),),
        "fused": fused,
        "two passes": two_passes,
        "training": training,
    }
    return programs[op]


def training_gradient(
    f: Attention, q: Heads, k: Heads, v: Heads, *t: Heads
) -> tuple[Array, tuple[Heads, Heads, Heads]]:
    """Value and gradient of `mean((F - sg(F) + sg(dF))²)`: sCM's loss, whose tangent is held fixed."""

    def loss(q: Heads, k: Heads, v: Heads) -> Float[Array, ""]:
        o, to = jax.jvp(f, (q, k, v), t)
        held = jax.lax.stop_gradient(to.astype(jnp.float32) - o.astype(jnp.float32))
        return jnp.mean((o.astype(jnp.float32) + held) ** 2)

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)


def run(name: str, case: Case, op: Op, cache: int, repeat: int) -> Measured:
    """Compile, time and keep the results of one operation."""
    f = attention(name, case.causal)
    wanted = ARGUMENTS[op]
    copies = attention_timing.copies(len(wanted) * case.array_bytes, cache)
    sets = [on_device(case, wanted) for _ in range(copies)]
    if op == "backward":
        # Under one jit, so that all residuals have one structure and one program pulls them all.
        residuals = jax.jit(lambda q, k, v: jax.vjp(f, q, k, v)[1])
        sets = [(residuals(q, k, v), do) for q, k, v, do in sets]
        compiled = jax.jit(lambda pull, do: pull(do)).lower(*sets[0]).compile()
    else:
        compiled = jax.jit(program(op, f)).lower(*sets[0]).compile()
    memory = compiled.memory_analysis()
    result_bytes = len(RESULTS[op]) * case.array_bytes
    timing = attention_timing.measure(compiled, sets, result_bytes, repeat)
    values = [checked(a) for a in compiled(*sets[0])[: len(RESULTS[op])]]
    return Measured(
        timing,
        memory.temp_size_in_bytes if memory else 0,
        dict(zip(RESULTS[op], values, strict=True)),
    )


def on_device(case: Case, names: tuple[str, ...]) -> tuple[Heads, ...]:
    """Inputs of `attention_problem.inputs`, spread over the heads on the device: the host takes seconds."""

    @jax.jit
    def spread(two: Float[Array, "2 n d"]) -> Heads:
        heads = jnp.moveaxis(two[np.arange(case.heads) % 2], 0, 1)
        return jnp.broadcast_to(heads, case.shape).astype(case.dtype)

    of = sources(case)
    return tuple(spread(of[name]) for name in names)


def reason(error: Exception) -> str:
    """Why a contestant is missing, in one line."""
    if "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
        return "out of memory"
    if "forward-mode" in str(error):
        return "no forward mode"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]


def release() -> None:
    """Give back what compiled programs and dropped arrays hold."""
    jax.clear_caches()
    gc.collect()
