"""Fused attention with its tangent: Pallas kernels on a GPU, XLA elsewhere."""

from dataclasses import dataclass
from typing import Literal

import equinox as eqx
from jaxtyping import Array, Float

from scmkit import attention
from scmkit.interfaces import AbstractAttention
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key


@dataclass(frozen=True)
class PallasAttentionOptions:
    """Options of the fused attention."""

    implementation: Literal["auto", "mosaic", "triton", "xla"] = "auto"
    """Kernel on CUDA: the fastest that supports the call, or this one. Other platforms use XLA."""


class PallasAttention(AbstractAttention):
    """`scmkit.attention`: memory linear in the tokens, and one pass for output and tangent."""

    implementation: Literal["mosaic", "triton", "xla"] | None = eqx.field(static=True)

    def __call__(
        self,
        q: Float[Array, "queries heads head_dim"],
        k: Float[Array, "tokens heads head_dim"],
        v: Float[Array, "tokens heads head_dim"],
    ) -> Float[Array, "queries heads head_dim"]:
        return attention(q, k, v, implementation=self.implementation)


def build(config: PallasAttentionOptions, context: Context, *, key: Key) -> PallasAttention:
    return PallasAttention(None if config.implementation == "auto" else config.implementation)


plugin = Plugin(
    name="pallas-attention",
    summary="Fused attention with its tangent: Mosaic GPU, Triton or XLA",
    provides={Slot.attention: build},
    config=PallasAttentionOptions,
)
