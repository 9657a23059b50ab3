"""Stage a: whether the card works and what it is, and what it attains at best."""

import importlib.metadata
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import attention_timing
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from gpu_stages.worker import Context, Row
from scmkit.composing.environment import environment

PACKAGES = ("jax-cuda13-plugin", "nvidia-cudnn-cu13", "nvidia-cublas", "torch", "triton")
"""What figures depend on besides what `environment` says, where it is there."""


def card(context: Context) -> Iterator[Row]:
    """One small product, right or not, and what it ran on."""
    start = time.perf_counter()
    device = jax.devices()[0]
    x = jr.normal(jr.key(0), (256, 256), jnp.bfloat16)
    found = jnp.dot(x, jnp.eye(256, dtype=jnp.bfloat16))
    if not jnp.array_equal(found, x):
        raise ArithmeticError(f"{device.device_kind}: a product with the identity is not the same")
    took = time.perf_counter() - start
    memory = (device.memory_stats() or {}).get("bytes_limit")
    size = "" if memory is None else f", {memory / 2**30:.0f} GiB for JAX"
    name = device.device_kind
    yield {
        "card": name,
        "count": jax.device_count(),
        "capability": getattr(device, "compute_capability", None),
        "driver": _driver(),
        "memory_bytes": memory,
        "versions": {p: v for p in PACKAGES if (v := _version(p))},
        "environment": environment("python benchmarks/gpu.py"),
        "seconds": took,
        "line": f"{name} works: first product after {took:.1f} s{size}, jax {jax.__version__}",
    }


def ceilings(context: Context) -> Iterator[Row]:
    """A large matrix product in each precision that the steps use, and a large copy."""
    n = 256 if context.rehearse else 8192
    products: dict[str, tuple[Any, jax.lax.Precision]] = {
        "bfloat16": (jnp.bfloat16, jax.lax.Precision.DEFAULT),
        "float32": (jnp.float32, jax.lax.Precision.DEFAULT),
        "float32, highest": (jnp.float32, jax.lax.Precision.HIGHEST),
    }
    for name, (dtype, precision) in products.items():
        sets = [_pair(i, n, dtype) for i in range(2)]
        product = jax.jit(lambda a, b, p=precision: jnp.dot(a, b, precision=p))
        ms = _milliseconds(product, sets, context)
        yield _ceiling(name, 2 * n**3 / (1e9 * ms), "TFLOP/s", f"product of {n}x{n}", ms)
    # Negated, so that it is a kernel: what the driver copies by itself the timer does not see.
    values = n * n * (8 if not context.rehearse else 1)
    sets = [(jr.normal(jr.key(i), (values,)),) for i in range(2)]
    ms = _milliseconds(jax.jit(jnp.negative), sets, context)
    yield _ceiling("copy", 8 * values / (1e9 * ms), "TB/s", f"{4 * values / 2**30:.1f} GiB", ms)


def _pair(seed: int, n: int, dtype: Any) -> tuple[Array, Array]:
    a, b = (jr.normal(key, (n, n), jnp.float32).astype(dtype) for key in jr.split(jr.key(seed)))
    return a, b


def _milliseconds(call: Callable[..., Any], sets: list[Any], context: Context) -> float:
    result = jax.block_until_ready(call(*sets[0]))
    repeat = 2 if context.rehearse else 20
    return attention_timing.measure(call, sets, result.nbytes, repeat).median


def _ceiling(name: str, value: float, unit: str, of: str, ms: float) -> Row:
    line = f"ceiling, {name}: {value:.3g} {unit} ({of}, {ms:.3g} ms)"
    return {"ceiling": name, "value": value, "unit": unit, "ms": ms, "line": line}


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
