"""Uniform time proposal."""

from typing import Annotated, Literal

import jax.numpy as jnp
import jax.random as jr
from annotated_types import Gt

from scmkit.interfaces import AbstractNoiseProcess, AbstractProposal
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Key, Scalar

Over = Literal["time", "karras"]


class Uniform(AbstractProposal):
    r"""`t` uniform between the time of the smallest noise-to-signal ratio $\rho$ and `t_max`, or uniform in
    $\rho^{1/7}$, as the points of Karras's grid are (arXiv 2206.00364, Eq. 5)."""

    ratio_min: Annotated[float, Gt(0)] = 1e-3
    """The smallest noise-to-signal ratio proposed."""
    over: Over = "time"
    """What is uniform: the process's time, or the seventh root of the ratio, as in Karras's grid."""

    def sample(self, process: AbstractNoiseProcess, *, key: Key) -> Scalar:
        if self.over == "karras":
            low, high = self.ratio_min ** (1 / 7), process.ratio_max ** (1 / 7)
            return process.time_at(jr.uniform(key, minval=low, maxval=high) ** 7)
        t_min = process.time_at(jnp.asarray(self.ratio_min, jnp.float32))
        return jr.uniform(key, minval=t_min, maxval=process.t_max)


plugin = Plugin(
    name="uniform",
    summary="uniform proposal of times",
    provides={Slot.proposal: itself},
    config=Uniform,
)
