"""Log-normal time proposal."""

from typing import Annotated

import jax.numpy as jnp
import jax.random as jr
from annotated_types import Gt

from scmkit.interfaces import AbstractNoiseProcess, AbstractProposal
from scmkit.plugin import Plugin, Slot, itself
from scmkit.types import Key, Scalar


class LogNormal(AbstractProposal):
    r"""$\log(\sigma/\alpha) \sim N(mean, std^2)$, cut at the process's largest ratio.

    The same two numbers mean the same noise levels for every process: $\log(\sigma_d \tan t)$ for
    TrigFlow, EDM's $\ln\sigma$, the logit-normal of flow matching (arXiv 2410.11081, Section 3).
    """

    mean: float = -1.0
    """Mean of the log ratio."""
    std: Annotated[float, Gt(0)] = 1.4
    """Standard deviation of the log ratio."""

    def sample(self, process: AbstractNoiseProcess, *, key: Key) -> Scalar:
        ratio = jnp.exp(self.mean + self.std * jr.normal(key))
        return process.time_at(jnp.minimum(ratio, process.ratio_max))


plugin = Plugin(
    name="log-normal",
    summary="log-normal proposal of noise levels",
    provides={Slot.proposal: itself},
    config=LogNormal,
)
