"""A program of its own, since it needs several devices: attention with arrays sharded over them.

Prints, for each way of sharding, the largest error of a training step's gradient and how often
the compiled program gathers.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.interpreters import mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

FORM, KV_HEADS = sys.argv[1], int(sys.argv[2])

if FORM == "kernel":
    # What runs on CUDA runs here: a kernel that XLA cannot look into, in place of its own code.
    register = mlir.register_lowering

    def on_every_platform(primitive, rule, platform=None):
        register(primitive, rule, platform=None if platform is None else "cpu")

    mlir.register_lowering = on_every_platform

from scmkit_attention import blockwise, dense, primitives  # noqa: E402

from scmkit import attention  # noqa: E402

if FORM == "kernel":
    primitives.cuda_kernel = lambda x, spec: dense
if FORM == "blockwise":
    dense.LONGEST, blockwise.BLOCK = 0, 8


def main() -> None:
    keys = jr.split(jr.key(0), 6)
    heads = (4, KV_HEADS, KV_HEADS) * 2
    arrays = [jr.normal(k, (8, 32, h, 8)) for k, h in zip(keys, heads, strict=True)]
    mask = jr.bernoulli(jr.key(1), 0.7, (8, 1, 1, 32))
    w = jnp.eye(8)

    def step(w, q, k, v, tq, tk, tv, mask):
        def loss(w):
            def attend(q, k, v):
                return attention(q @ w, k @ w, v @ w, causal=True, mask=mask)

            F, dF = jax.jvp(attend, (q, k, v), (tq, tk, tv))
            F_, dF = jax.lax.stop_gradient((F, dF))
            return jnp.sum((F - F_ + dF) ** 2)

        return jax.grad(loss)(w)

    expected = jax.device_get(jax.jit(step)(w, *arrays, mask))
    found = {}

    def check(name, f, *args):
        compiled = jax.jit(f).lower(*args).compile()
        error = float(abs(jax.device_get(compiled(*args)) - expected).max())
        found[name] = [error / float(abs(expected).max()), compiled.as_text().count(" all-gather(")]

    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2, 2), ("batch", "heads"), axis_types=(kind, kind))
        for spec in (P("batch"), P("batch", None, "heads")):
            sharding = NamedSharding(mesh, spec)
            by_batch, whole = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())
            args = [jax.device_put(a, sharding) for a in arrays]
            args = [jax.device_put(w, whole), *args, jax.device_put(mask, by_batch)]
            check(f"jit {kind.name} {len(spec)}", step, *args)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    args = [jax.device_put(a, NamedSharding(mesh, P("batch"))) for a in (*arrays, mask)]
    specs = (P(), *[P("batch")] * 7)
    for checked in (True, False):
        # With check_vma the gradient of what is the same everywhere is summed by itself.
        body = step if checked else lambda *a: jax.lax.psum(step(*a), "batch")
        mapped = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=checked)
        check(f"shard_map {checked}", mapped, w, *args)
    sys.stdout.write(json.dumps(found))


main()
