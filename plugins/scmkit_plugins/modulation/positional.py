"""Positional embedding of the noise labels."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Le
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractTimeEmbedding
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key


@dataclass(frozen=True)
class PositionalOptions:
    """Options of the positional embedding."""

    channels: Annotated[int, Ge(2)] = 256
    """Features of a time, an even number."""
    min_frequency: Annotated[float, Gt(0), Le(1)] = 1e-4
    """Lowest angular frequency; the highest is 1."""


class PositionalEmbedding(AbstractTimeEmbedding):
    r"""$\sqrt2\,(\cos \omega_i t, \sin \omega_i t)$ of each label, $\omega_i$ geometric from 1 down.

    The label is used as it is: multiplied by 1000, as in DDPM, its derivative would swamp the
    tangent (arXiv 2410.11081, Section 4.1). The factor makes the RMS of the features exactly 1.
    """

    channels: int
    min_frequency: float
    dim: int

    def __call__(self, c_noise: Float[Array, " k"]) -> Float[Array, " dim"]:
        frequencies = np.geomspace(1, self.min_frequency, self.channels // 2, dtype=np.float32)
        angle = c_noise.astype(jnp.float32)[:, None] * frequencies[None]
        features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
        return np.float32(np.sqrt(2)) * features.ravel()


def build(config: PositionalOptions, context: Context, *, key: Key) -> PositionalEmbedding:
    if config.channels % 2:
        raise ValueError(
            f"the positional embedding pairs a cosine with a sine: set positional.channels to an "
            f"even number, not {config.channels}"
        )
    return PositionalEmbedding(
        channels=config.channels,
        min_frequency=config.min_frequency,
        dim=config.channels,
    )


plugin = Plugin(
    name="positional",
    summary="Positional time embedding, frequencies 1 to 1e-4 (sCM, arXiv 2410.11081)",
    provides={Slot.embedding: build},
    config=PositionalOptions,
)
