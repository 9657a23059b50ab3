"""Error of the attention's tangent where all keys' tangents have a part in common.

A time embedding moves every key alike; a softmax does not see it, but rounding may. Relative root mean
square error against float64, bfloat16 operands of 256 tokens, for a common part of 0 to 100 times
the rest. The Pallas kernels are interpreted, so this runs anywhere:

    python benchmarks/attention_accuracy.py --out benchmarks/results/attention-accuracy.json
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import write
from jaxtyping import Array
from scmkit_attention import blockwise, dense, triton
from scmkit_attention.problem import Differentials, Operands, Spec

TOKENS, HEADS, HEAD_DIM = 256, 2, 64
SPEC = Spec(scale=HEAD_DIM**-0.5, causal=False, implementation=None)
Tangent = Callable[[Operands, Differentials], Array]


def exact(x: Operands, t: Differentials) -> np.ndarray:
    """The tangent in float64."""
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in (*x[:3], *t[:3])]
        _, _, to = dense.dual(Operands(*wide[:3]), Differentials(*wide[3:]), SPEC)
        return np.asarray(to)


def autodiff(attention: Callable[..., Array]) -> Tangent:
    return lambda x, t: jax.jvp(attention, tuple(x[:3]), tuple(t[:3]))[1]


def all_bfloat16(q: Array, k: Array, v: Array) -> Array:
    """What is written most easily: every number in the operands' dtype."""
    s = jnp.einsum("bnhd,bmhd->bhnm", q, k) * jnp.asarray(SPEC.scale, q.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(s, axis=-1), v)


def contestants() -> dict[str, Tangent]:
    """Every form of the fused kernel that this version of JAX can run here, and what it replaces."""
    blockwise.BLOCK = 64
    found: dict[str, Tangent] = {
        "dense XLA": lambda x, t: dense.dual(x, t, SPEC)[2],
        "blockwise XLA": lambda x, t: blockwise.dual(x, t, SPEC)[2],
        "Triton": lambda x, t: triton.dual(x, t, SPEC, interpret=True)[2],
    }
    if jax.__version_info__ >= (0, 11):
        from scmkit_attention import mosaic

        found["Mosaic GPU"] = lambda x, t: mosaic.dual(x, t, SPEC, interpret=True)[2]
    found["jax.nn.dot_product_attention"] = autodiff(jax.nn.dot_product_attention)
    found["plain bfloat16"] = autodiff(all_bfloat16)
    return found


def measure(common: float) -> dict[str, float]:
    keys = jr.split(jr.key(0), 7)
    shape = (1, TOKENS, HEADS, HEAD_DIM)
    q, k, v, tq, tk, tv = (jr.normal(key, shape) for key in keys[:6])
    tk = tk + common * jr.normal(keys[6], (1, 1, HEADS, HEAD_DIM))
    low = [a.astype(jnp.bfloat16) for a in (q, k, v, tq, tk, tv)]
    x, t = Operands(*low[:3]), Differentials(*low[3:])
    expected = exact(x, t)
    size = np.sqrt(np.mean(expected**2))
    return {
        name: float(np.sqrt(np.mean((np.asarray(f(x, t), np.float64) - expected) ** 2)) / size)
        for name, f in contestants().items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Error of the attention's tangent.")
    parser.add_argument("--common", type=float, nargs="+", default=[0, 3, 10, 30, 100])
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    results: dict[str, Any] = {f"{c:g}": measure(c) for c in args.common}
    print(f"{'common part':32}" + "".join(f"{c:>10}" for c in results))
    for name in next(iter(results.values())):
        print(f"{name:32}" + "".join(f"{r[name]:10.1e}" for r in results.values()))
    write(args.out, results)


if __name__ == "__main__":
    main()
