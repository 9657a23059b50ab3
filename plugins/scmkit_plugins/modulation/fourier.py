"""Random Fourier features of the noise labels."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from annotated_types import Ge, Gt
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractTimeEmbedding
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key


@dataclass(frozen=True)
class FourierOptions:
    """Options of the Fourier embedding."""

    channels: Annotated[int, Ge(1)] = 256
    """Features per noise label."""
    scale: Annotated[float, Gt(0)] = 0.02
    """Standard deviation of the frequencies. EDM's 16 makes consistency training unstable."""


class FourierEmbedding(AbstractTimeEmbedding):
    r"""$\sqrt2 \cos(2\pi (f_i t + \phi_i))$, $f_i \sim N(0, scale^2)$, $\phi_i \sim U(0, 1)$.

    Frequencies and phases are drawn once and never trained. Scale 0.02 is about the positional
    embedding (arXiv 2410.11081, Section 4.1; the features are those of arXiv 2006.10739).
    """

    frequencies: Float[Array, "k channels"]
    phases: Float[Array, "k channels"]
    dim: int

    def __init__(self, labels: int, channels: int, scale: float, *, key: Key) -> None:
        k_frequencies, k_phases = jr.split(key)
        shape = (labels, channels)
        self.frequencies = scale * jr.normal(k_frequencies, shape, jnp.float32)
        self.phases = jr.uniform(k_phases, shape, jnp.float32)
        self.dim = labels * channels

    def __call__(self, c_noise: Float[Array, " k"]) -> Float[Array, " dim"]:
        frequencies, phases = jax.lax.stop_gradient((self.frequencies, self.phases))
        turns = frequencies * c_noise.astype(jnp.float32)[:, None] + phases
        return np.float32(np.sqrt(2)) * jnp.cos(2 * np.pi * turns).ravel()


def build(config: FourierOptions, context: Context, *, key: Key) -> FourierEmbedding:
    return FourierEmbedding(1, config.channels, config.scale, key=key)


plugin = Plugin(
    name="fourier",
    summary="Random Fourier features of time, scale 0.02 (EDM uses 16)",
    provides={Slot.embedding: build},
    config=FourierOptions,
)
