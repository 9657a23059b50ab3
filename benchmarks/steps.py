"""A whole sCM training step over a diffusion step: same network, same batch, in turn in one process.

The compiled steps of `scmkit.training.step`, with loss weighting, optimizer and EMA, on random 28x28
images. With a shared primal pass the limit is 4/3 where linear layers dominate. Pin it:

    taskset -c 0 python benchmarks/steps.py --out benchmarks/results/steps.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import write

from scmkit import build, compose
from scmkit.data import StoreWriter
from scmkit.training.ema import parse_ema
from scmkit.training.optimizer import build_optimizer
from scmkit.training.state import initial_state
from scmkit.training.step import Batch, make_step

# A CPU is shared with others, so its own seconds count; on an accelerator the process only waits.
clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter

NETWORKS = ("dit", "unet", "unet, adagn")


def contestant(network: str, loss: str, data: Path, batch: int) -> Callable[[float], float]:
    """A function that trains for so many CPU seconds and returns CPU seconds per step."""
    name, _, norm = network.partition(", ")
    plugins = ["trigflow", loss, name, *([norm] if norm else [])]
    recipe = compose(plugins, {"train.batch_size": batch}, data=str(data))
    assembly = build(recipe, key=jr.key(0))
    optimizer = build_optimizer(recipe.train, recipe.train.steps)
    step = make_step(optimizer, parse_ema(recipe.train.ema, batch))
    state = initial_state(assembly.model, assembly.loss, optimizer)
    given = (assembly.tangent, Batch(jnp.ones((batch, 1, 28, 28)), None), jr.key(1))
    state, _ = step(given, state)

    def run(seconds: float) -> float:
        nonlocal state
        start, steps = clock(), 0
        while clock() - start < seconds:
            state, _ = step(given, state)
            jax.block_until_ready(state.step)
            steps += 1
        return (clock() - start) / steps

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds per block")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    with TemporaryDirectory() as folder:
        data = Path(folder) / "store"
        with StoreWriter(data, shape=(1, 28, 28), dtype="float32") as writer:
            noise = np.random.default_rng(0).normal(0, 0.5, (256, 1, 28, 28)).clip(-1, 1)
            for split in ("train", "test"):
                writer.append(split, noise.astype(np.float32))
        for network in NETWORKS:
            plain, scm = (
                contestant(network, loss, data, args.batch) for loss in ("diffusion", "sct")
            )
            pairs = [(plain(args.seconds), scm(args.seconds)) for _ in range(args.rounds)]
            ratios = [b / a for a, b in pairs]
            row = {"ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
            row["diffusion_ms"] = 1e3 * statistics.median(a for a, _ in pairs)
            results[network] = row
            print(
                f"{network:<12} sCM / diffusion {row['ratio']:.3f} [{row['min']:.3f}, {row['max']:.3f}]"
            )
    write(args.out, results)


if __name__ == "__main__":
    main()
