"""A whole sCM training step over a diffusion step: same network, same batch, in turn in one process.

The compiled steps of `scmkit.training.guarded`, with loss weighting, optimizer and EMA, on random 28x28
images. With a shared primal pass the limit is 4/3 where linear layers dominate. Pin it:

    taskset -c 0 python benchmarks/steps.py --out benchmarks/results/steps.json
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import counting
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from common import write
from jaxtyping import Array, Float

from scmkit import Recipe, build, build_model, compose
from scmkit.data import StoreWriter
from scmkit.interfaces import AbstractNetwork, Conditioning, Sample
from scmkit.training.guarded import Given, guarded
from scmkit.training.packed import pack
from scmkit.training.setup import setting_of, state_before, step_of
from scmkit.types import Key

# A CPU is shared with others, so its own seconds count; on an accelerator the process only waits.
clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter

NETWORKS = ("dit", "unet", "unet, adagn")
SHAPE = (1, 28, 28)


class Contestant:
    """A compiled training step and the state that it advances."""

    def __init__(
        self,
        plugins: list[str],
        data: Path,
        shape: tuple[int, ...],
        batch: int,
        settings: dict[str, Any] | None = None,
        dtype: jnp.dtype | None = None,
    ) -> None:
        recipe = compose(plugins, {"train.batch_size": batch, **(settings or {})}, data=str(data))
        teacher = recipe.teacher if isinstance(recipe.teacher, Recipe) else None
        followed = None if teacher is None else build_model(teacher, key=jr.key(1))
        assembly = build(recipe, key=jr.key(0), teacher=followed)
        model = assembly.model
        if dtype is not None:
            model = eqx.tree_at(lambda m: m.network, model, InDtype(model.network, dtype))
        assembly = eqx.tree_at(lambda a: a.model, assembly, model)
        self.state = pack(state_before(recipe, assembly))
        batch_of = Sample(jnp.ones((batch, *shape)))
        setting, hold = pack(setting_of(assembly)), jnp.zeros((), bool)
        self.given = Given(setting, batch_of, jr.key(1), hold)
        self.source = guarded(step_of(recipe))
        self.step = self.source.lower(self.given, self.state).compile()  # pyright: ignore[reportFunctionMemberAccess]

    def run(self, seconds: float) -> float:
        """Train for so many seconds and at least one step; returns seconds per step.

        One step is dispatched ahead, as in training, so that a GPU does not wait for the host.
        """
        start, steps, before = clock(), 0, None
        while steps == 0 or clock() - start < seconds:
            self.state, _, hold = self.step(self.given, self.state)
            jax.block_until_ready(before)
            before, steps = hold, steps + 1
        jax.block_until_ready(self.state)
        return (clock() - start) / steps

    def flops(self) -> float:
        """Operations of a step's matrix products; see `counting`."""
        return counting.flops(self.source, self.given, self.state)

    @property
    def temp_bytes(self) -> int:
        """Memory of a step beside its arguments and results."""
        return self.step.compiled.memory_analysis().temp_size_in_bytes

    @property
    def planned_bytes(self) -> int:
        """Memory of a step in all: arguments, results that take no argument's place, and what is beside."""
        memory = self.step.compiled.memory_analysis()
        results = memory.output_size_in_bytes - memory.alias_size_in_bytes
        return memory.argument_size_in_bytes + results + memory.temp_size_in_bytes


class InDtype(AbstractNetwork):
    """A network that computes in another dtype than its samples and its parameters."""

    network: AbstractNetwork
    dtype: jnp.dtype = eqx.field(static=True)

    def __call__(
        self,
        x: Float[Array, "*shape"],
        c_noise: Float[Array, " k"],
        cond: Conditioning,
        *,
        key: Key | None,
    ) -> Float[Array, "*shape"]:
        return self.network(x.astype(self.dtype), c_noise, cond, key=key).astype(x.dtype)


def noise_store(folder: Path, shape: tuple[int, ...], count: int) -> Path:
    """A data set of noise, `count` samples a split."""
    with StoreWriter(folder, shape=shape, dtype="float32") as writer:
        noise = np.random.default_rng(0).normal(0, 0.5, (count, *shape)).clip(-1, 1)
        for split in ("train", "test"):
            writer.append(split, noise.astype(np.float32))
    return folder


def compare(plain: Contestant, scm: Contestant, rounds: int, seconds: float) -> dict[str, float]:
    """The ratio of the two steps' times, taken in turn, and the time of the first."""
    pairs = [(plain.run(seconds), scm.run(seconds)) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    row = {"ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    row["diffusion_ms"] = 1e3 * statistics.median(a for a, _ in pairs)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds per block")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    with TemporaryDirectory() as folder:
        data = noise_store(Path(folder) / "store", SHAPE, 256)
        for network in NETWORKS:
            name, _, norm = network.partition(", ")
            plain, scm = (
                Contestant(
                    ["trigflow", loss, name, *([norm] if norm else [])], data, SHAPE, args.batch
                )
                for loss in ("diffusion", "sct")
            )
            results[network] = row = compare(plain, scm, args.rounds, args.seconds)
            print(
                f"{network:<12} sCM / diffusion {row['ratio']:.3f} [{row['min']:.3f}, {row['max']:.3f}]"
            )
    write(args.out, results)


if __name__ == "__main__":
    main()
