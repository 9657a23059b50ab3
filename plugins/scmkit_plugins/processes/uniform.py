"""Uniform time proposal."""

from typing import Annotated

import jax.numpy as jnp
import jax.random as jr
from annotated_types import Gt

from scmkit.interfaces import AbstractNoiseProcess, AbstractProposal
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Key, Scalar


class Uniform(AbstractProposal):
    """`t` uniform between the time of the smallest noise-to-signal ratio and `t_max`."""

    ratio_min: Annotated[float, Gt(0)] = 1e-3
    """The smallest noise-to-signal ratio proposed."""

    def sample(self, process: AbstractNoiseProcess, *, key: Key) -> Scalar:
        t_min = process.time_at(jnp.asarray(self.ratio_min, jnp.float32))
        return jr.uniform(key, minval=t_min, maxval=process.t_max)


plugin = Plugin(
    name="uniform",
    summary="uniform proposal of times",
    provides={Slot.proposal: itself},
    config=Uniform,
)
