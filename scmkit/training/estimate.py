"""How long training takes at the least: its FLOPs at the speed of this machine's matrix products."""

import time

import jax
import jax.numpy as jnp
from jaxtyping import Array

from scmkit.composing.recipe import Recipe, TeacherRecord
from scmkit.plugin import Slot
from scmkit.training.progress import Reporter, duration

FEW = 2e13
"""FLOPs of which nothing is said: a few minutes on a laptop."""

LONG = 3600.0
"""Seconds from which on the options are named that make training shorter."""

_SIZES = ("preset", "channels", "width", "depth", "blocks")
"""What options are called that set the size of a network."""


def announce(recipe: Recipe, flops: float, reporter: Reporter, *, begun: bool = False) -> None:
    """Say how long `flops` take here at the least, if they may be many, and how to make them fewer.

    `begun` says that this is a run to resume, of which nothing but the number of steps can change.
    """
    if flops < FEW:
        return
    speed = jax.device_count() * product_speed(recipe.train.precision)
    seconds = flops / speed
    reporter.message(
        f"estimate        {flops:.2g} FLOP in matrix products and convolutions; at the {speed / 1e9:,.0f} "
        f"GFLOP/s measured here {duration(seconds)} at the least, often a few times that"
    )
    if seconds > LONG:
        reporter.message(f"shorter with    {', '.join(_shorter(recipe, begun))}")


def product_speed(precision: str, *, seconds: float = 0.1) -> float:
    """The FLOPs a second of one device in products of square matrices, measured for about `seconds`."""
    side = 1024 if jax.default_backend() == "cpu" else 4096
    a = jnp.full((side, side), 1 / side, jnp.dtype(precision))

    @jax.jit
    def repeated(a: Array, count: Array) -> Array:
        return jax.lax.fori_loop(0, count, lambda _, b: b @ a, a)

    def timed(count: int) -> float:
        start = time.perf_counter()
        repeated(a, jnp.asarray(count)).block_until_ready()
        return time.perf_counter() - start

    timed(1)  # Compiles it.
    count = max(1, min(10_000, int(seconds / max(timed(1), 1e-6))))
    return 2 * side**3 * count / timed(count)


def _shorter(recipe: Recipe, begun: bool) -> list[str]:
    train, network = recipe.train, recipe.slots[Slot.network]
    found = [f"fewer --steps (now {train.steps})"]
    if begun:
        return found
    found.append(f"a smaller --batch-size ({train.batch_size})")
    if Slot.dataset not in recipe.slots and len(recipe.data.shape) == 3:
        found.append("smaller images (`scmkit data import --size`)")
    # The network of a teacher that is there already is as large as it is.
    if not isinstance(recipe.teacher, TeacherRecord):
        config = recipe.plugins[network].config
        sizes = [f"{network}.{k}={config[k]}" for k in _SIZES if config.get(k) is not None]
        found.append(f"a smaller network (--set, now {' '.join(sizes) or network})")
    return found
