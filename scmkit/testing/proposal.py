"""Checks of time proposals."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNoiseProcess, AbstractProposal
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_finite
from scmkit.testing.family import PROCESSES, Family


@dataclass(frozen=True)
class Proposing:
    """A proposal and the process whose times it proposes."""

    proposal: AbstractProposal
    process: AbstractNoiseProcess

    def times(self, seed: int, n: int = 512) -> Float[Array, " n"]:
        """Times from `n` keys, drawn under `jit` and `vmap` as training draws them."""
        keys = jr.split(jr.key(seed), n)
        return jax.jit(jax.vmap(lambda k: self.proposal.sample(self.process, key=k)))(keys)


def times_are_float32_scalars(given: Proposing) -> None:
    t = given.proposal.sample(given.process, key=jr.key(0))
    require(
        t.shape == () and t.dtype == jnp.float32,
        f"sample must return a float32 scalar, not {t.dtype} of shape {t.shape}",
    )


def times_lie_between_data_and_prior(given: Proposing) -> None:
    t, t_max = given.times(0), float(given.process.t_max)
    require_finite(t, "512 proposed times")
    require(
        t.min() > 0 and t.max() <= t_max * (1 + 1e-6),
        f"proposed times must lie in (0, {t_max:g}], but go from {t.min():g} to {t.max():g}",
    )


def times_depend_on_the_key_alone(given: Proposing) -> None:
    t = given.times(0)
    require((t == given.times(0)).all(), "one key must always give one time")
    require(jnp.unique(t).size > 1, f"every one of 512 keys gives the time {t[0]:g}")


FAMILY = Family(
    lambda bench: Proposing(bench.build(Slot.proposal), bench.build(Slot.noise)),
    (times_are_float32_scalars, times_lie_between_data_and_prior, times_depend_on_the_key_alone),
    PROCESSES,
)
