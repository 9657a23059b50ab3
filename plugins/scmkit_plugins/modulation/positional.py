"""Positional embedding of the noise labels."""

from typing import Annotated

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt, Le
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractTimeEmbedding
from scmkit.plugin import Plugin, Slot, itself


class PositionalEmbedding(AbstractTimeEmbedding):
    r"""$\sqrt2\,(\cos \omega_i t, \sin \omega_i t)$ of each label, $\omega_i$ geometric from 1 down.

    The label is used as it is: multiplied by 1000, as in DDPM, its derivative would swamp the
    tangent (arXiv 2410.11081, Section 4.1). The factor makes the RMS of the features exactly 1.
    """

    channels: Annotated[int, Ge(2)] = 256
    """Features of a time, an even number."""
    min_frequency: Annotated[float, Gt(0), Le(1)] = 1e-4
    """Lowest angular frequency; the highest is 1."""

    def __check_init__(self) -> None:
        if self.channels % 2:
            raise ValueError(
                f"the positional embedding pairs a cosine with a sine: set positional.channels to an "
                f"even number, not {self.channels}"
            )

    @property
    def dim(self) -> int:
        return self.channels

    def __call__(self, c_noise: Float[Array, " k"]) -> Float[Array, " dim"]:
        frequencies = np.geomspace(1, self.min_frequency, self.channels // 2, dtype=np.float32)
        angle = c_noise.astype(jnp.float32)[:, None] * frequencies[None]
        features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
        return np.float32(np.sqrt(2)) * features.ravel()


plugin = Plugin(
    name="positional",
    summary="Positional time embedding, frequencies 1 to 1e-4 (sCM, arXiv 2410.11081)",
    provides={Slot.embedding: itself},
    config=PositionalEmbedding,
)
