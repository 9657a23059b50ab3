"""Training-step times of the networks, as ratios of CPU seconds.

Every contestant is alive at once and runs in alternating blocks in one process; a ratio is the
median over rounds of its CPU seconds per step against its reference in the same round. Pin it:

    taskset -c 0 python benchmarks/networks.py --out networks.json
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from common import write
from jaxtyping import Array, Float
from scmkit_plugins.layers import xla_attention
from scmkit_plugins.modulation import adagn, adaln, adaptive_double_norm, positional
from scmkit_plugins.networks import dit, unet

from scmkit.interfaces import UNCONDITIONED, AbstractNetwork, DataSpec
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Scalar

NORMS = {"adaln": adaln, "adagn": adagn, "adaptive-double-norm": adaptive_double_norm}

Images = Float[Array, "b c h w"]
Times = Float[Array, " b"]
Forward = Callable[[Any, Images, Times], Images]
Loss = Callable[[Forward, Any, Images, Images, Times], Scalar]


def build(network: Plugin, options: dict[str, Any], norm: str, size: int) -> AbstractNetwork:
    """A network through its plugin's factory, on one-channel images without classes."""
    data = DataSpec(
        source="bench", shape=(1, size, size), num_classes=0, shift=(0.0,), scale=(1.0,)
    )
    built: dict[Slot, Any] = {}
    plugins = {
        Slot.embedding: positional.plugin,
        Slot.norm: NORMS[norm].plugin,
        Slot.attention: xla_attention.plugin,
        Slot.network: network,
    }
    for slot, plugin in plugins.items():
        config = plugin.config(**options) if plugin is network else plugin.config()
        factory = plugin.provides[slot]
        built[slot] = factory(config, Context(data, dict(built)), key=jr.key(0))
    return built[Slot.network]


def plain_dit(network: dit.DiT) -> tuple[dict[str, Any], Forward]:
    """The same transformer with `adaln`, written by hand: a dict of arrays and batched einsums."""
    blocks, cond = network.blocks, network.conditioning

    assert isinstance(blocks.norm1, adaln.AdaptiveLayerNorm)
    assert isinstance(blocks.norm2, adaln.AdaptiveLayerNorm)
    assert isinstance(network.norm, adaln.AdaptiveLayerNorm)
    assert isinstance(blocks.gate1, adaln.LinearGate)
    assert isinstance(blocks.gate2, adaln.LinearGate)

    def affine(layer: Any) -> dict[str, Array]:
        return {"w": layer.weight, "b": layer.bias}

    params = {
        "time1": {"w": cond.first.weight.T, "b": cond.first.bias},
        "time2": {"w": cond.second.weight.T, "b": cond.second.bias},
        "first": affine(network.first),
        "blocks": {
            "mod1": affine(blocks.norm1.modulation),
            "mod2": affine(blocks.norm2.modulation),
            "gate1": affine(blocks.gate1.modulation),
            "gate2": affine(blocks.gate2.modulation),
            "qkv": affine(blocks.qkv),
            "out": affine(blocks.out),
            "up": affine(blocks.up),
            "down": affine(blocks.down),
        },
        "mod": affine(network.norm.modulation),
        "last": affine(network.last),
    }
    c, side, _ = network.shape
    p, heads, grid = network.options.patch, blocks.heads, side // network.options.patch
    width = network.first.bias.size
    positions = dit.sincos_positions(network.grid, width).astype(np.float32)[None]
    half = cond.embedding.dim // 2
    frequencies = np.geomspace(1, 1e-4, half, dtype=np.float32)[None]

    def linear(p: dict[str, Array], x: Array) -> Array:
        return jnp.einsum("...i,io->...o", x, p["w"]) + p["b"]

    def modulated(p: dict[str, Array], x: Array, emb: Array) -> Array:
        s, b = jnp.split(linear(p, emb)[:, None], 2, axis=-1)
        x = x - jnp.mean(x, -1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        return x * (1 + s) + b

    def forward(params: dict[str, Any], x: Images, t: Times) -> Images:
        n = x.shape[0]
        angle = t[:, None] * frequencies
        emb = np.float32(2**0.5) * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
        emb = jax.nn.silu(linear(params["time2"], jax.nn.silu(linear(params["time1"], emb))))
        h = x.reshape(n, c, grid, p, grid, p).transpose(0, 2, 4, 3, 5, 1).reshape(n, grid**2, -1)
        h = linear(params["first"], h) + positions

        def body(h: Array, p: dict[str, Any]) -> tuple[Array, None]:
            qkv = linear(p["qkv"], modulated(p["mod1"], h, emb))
            q, k, v = jnp.moveaxis(qkv.reshape(n, grid**2, 3, heads, width // heads), 2, 0)
            logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (width // heads) ** -0.5
            a = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits, -1), v)
            h = h + linear(p["gate1"], emb)[:, None] * linear(
                p["out"], a.reshape(n, grid**2, width)
            )
            m = jax.nn.gelu(linear(p["up"], modulated(p["mod2"], h, emb)))
            return h + linear(p["gate2"], emb)[:, None] * linear(p["down"], m), None

        h, _ = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), h, params["blocks"])
        h = linear(params["last"], modulated(params["mod"], h, emb))
        return h.reshape(n, grid, grid, p, p, c).transpose(0, 5, 1, 3, 2, 4).reshape(x.shape)

    return params, forward


def module(network: AbstractNetwork) -> tuple[AbstractNetwork, Forward]:
    """A network's trained arrays and its batched forward pass."""
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def forward(params: AbstractNetwork, x: Images, t: Times) -> Images:
        net = eqx.combine(params, static)
        return jax.vmap(lambda x, t: net(x, t[None], UNCONDITIONED, key=None))(x, t)

    return params, forward


def plain_loss(forward: Forward, params: Any, x: Images, v: Images, t: Times) -> Scalar:
    """Flow matching: one forward pass against a target."""
    return jnp.mean((forward(params, x, t) - v) ** 2)


def scm_loss(forward: Forward, params: Any, x: Images, v: Images, t: Times) -> Scalar:
    """The shape of sCM: value and tangent from one pass, the tangent never differentiated."""
    F, dF = jax.jvp(lambda x, t: forward(params, x, t), (x, t), (v, jnp.ones_like(t)))
    F_, dF = jax.lax.stop_gradient((F, dF))
    return jnp.mean((F - F_ - 0.1 * (v + dF)) ** 2)


class Contestant:
    """A compiled training step, `value_and_grad` and Adam, and the state it advances."""

    def __init__(self, params: Any, forward: Forward, loss: Loss, batch: tuple[Array, ...]) -> None:
        optimizer = optax.adam(1e-4)
        self.batch = batch
        # A copy: the step gives its argument's buffers away, and contestants share parameters.
        params = jax.tree.map(jnp.copy, params)
        self.state = (params, optimizer.init(params))

        def step(state: Any, *batch: Array) -> tuple[Any, Scalar]:
            params, opt_state = state
            value, grads = jax.value_and_grad(lambda p: loss(forward, p, *batch))(params)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        start = time.process_time()
        self.step = jax.jit(step, donate_argnums=0).lower(self.state, *batch).compile()
        self.compile_seconds = time.process_time() - start
        memory = self.step.memory_analysis()
        self.temp_mib = memory.temp_size_in_bytes / 2**20 if memory else float("nan")

    def run(self, seconds: float) -> float:
        """CPU seconds per step over at least `seconds` and one step."""
        start, steps = time.process_time(), 0
        while steps == 0 or time.process_time() - start < seconds:
            self.state, value = self.step(self.state, *self.batch)
            jax.block_until_ready(value)
            steps += 1
        return (time.process_time() - start) / steps


def contestants(args: argparse.Namespace) -> tuple[dict[str, Contestant], dict[str, str]]:
    """The steps to time, and for each what it is measured against."""
    k_x, k_v, k_t = jr.split(jr.key(1), 3)

    def batch(n: int, size: int) -> tuple[Array, ...]:
        shape = (n, 1, size, size)
        return jr.normal(k_x, shape), jr.normal(k_v, shape), jr.uniform(k_t, (n,))

    runs: dict[str, Contestant] = {}
    against: dict[str, str] = {}

    def add(name: str, reference: str, pair: tuple[Any, Forward], loss: Loss, data: Any) -> None:
        if args.only is None or any(name.startswith(o) for o in args.only):
            runs[name], against[name] = Contestant(*pair, loss, data), reference
            print(f"compiled {name}", file=sys.stderr)

    size = {"patch": 2, "width": args.width, "depth": args.depth, "heads": 4}
    tokens = batch(4, 28)
    pairs = {
        (remat, unroll): module(
            build(dit.plugin, {**size, "remat": remat, "unroll": unroll}, args.norm, 28)
        )
        for remat in ("none", "light", "full")
        for unroll in (1, args.depth)
    }
    if args.norm == "adaln":
        network = build(dit.plugin, size, args.norm, 28)
        assert isinstance(network, dit.DiT)
        params, forward = plain_dit(network)
        x, _, t = tokens
        ours = pairs["light", 1][1](_noisy(pairs["light", 1][0]), x, t)
        hand = forward(_noisy(params), x, t)
        np.testing.assert_allclose(ours, hand, rtol=2e-3, atol=2e-3)
        add("dit, by hand, plain", "dit, by hand, plain", (params, forward), plain_loss, tokens)
        add("dit, by hand, scm", "dit, by hand, plain", (params, forward), scm_loss, tokens)
    reference = "dit, by hand, plain" if args.norm == "adaln" else "dit, plain"
    add("dit, plain", reference, pairs["light", 1], plain_loss, tokens)
    add("dit, full remat, plain", "dit, plain", pairs["full", 1], plain_loss, tokens)
    add("dit, no remat, plain", "dit, plain", pairs["none", 1], plain_loss, tokens)
    add("dit, unrolled, plain", "dit, plain", pairs["light", args.depth], plain_loss, tokens)
    add(
        "dit, unrolled, no remat, plain",
        "dit, plain",
        pairs["none", args.depth],
        plain_loss,
        tokens,
    )
    add("dit, scm", "dit, plain", pairs["light", 1], scm_loss, tokens)
    add("dit, full remat, scm", "dit, full remat, plain", pairs["full", 1], scm_loss, tokens)
    add("dit, no remat, scm", "dit, no remat, plain", pairs["none", 1], scm_loss, tokens)
    pixels = batch(8, 28)
    pair = module(build(unet.plugin, {"attention_resolutions": (7,)}, args.norm, 28))
    add("unet, plain", "unet, plain", pair, plain_loss, pixels)
    add("unet, scm", "unet, plain", pair, scm_loss, pixels)
    return runs, against


def _noisy(params: Any) -> Any:
    """Parameters away from their zeros, so that comparing outputs compares whole networks."""
    return jax.tree.map(lambda p: p + 0.02 * jnp.sin(1e3 * p + 1), params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds per block")
    parser.add_argument("--norm", choices=NORMS, default="adaln")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--only", nargs="*", help="contestants whose names start so")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    runs, against = contestants(args)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for contestant in runs.values():
        contestant.run(0)
    for _ in range(args.rounds):
        for name, contestant in runs.items():
            times[name].append(contestant.run(args.seconds))

    rows = {}
    for name, contestant in runs.items():
        reference = against[name] if against[name] in times else name
        ratios = [a / b for a, b in zip(times[name], times[reference], strict=True)]
        rows[name] = {
            "against": reference,
            "ratio": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "cpu_ms": 1e3 * statistics.median(times[name]),
            "compile_cpu_s": contestant.compile_seconds,
            "temp_mib": contestant.temp_mib,
        }
        row = rows[name]
        print(
            f"{name:32} {row['ratio']:.3f} [{row['min']:.3f}, {row['max']:.3f}] x {reference}; "
            f"{row['cpu_ms']:.0f} ms, compile {row['compile_cpu_s']:.1f} s, "
            f"temp {row['temp_mib']:.0f} MiB"
        )
    write(args.out, {"rows": rows})


if __name__ == "__main__":
    main()
