"""Fused attention with its tangent: Pallas kernels on a GPU, XLA elsewhere."""

from typing import Literal

import equinox as eqx
from jaxtyping import Array, Float

from scmkit import attention
from scmkit.interfaces import AbstractAttention
from scmkit.plugin import Plugin, Slot, itself


class PallasAttention(AbstractAttention):
    """`scmkit.attention`: memory linear in the tokens, and one pass for output and tangent."""

    implementation: Literal["auto", "mosaic", "triton", "xla"] = eqx.field(
        static=True, default="auto"
    )
    """Kernel on CUDA: the fastest that supports the call, or this one. Other platforms use XLA."""

    def __call__(
        self,
        q: Float[Array, "queries heads head_dim"],
        k: Float[Array, "tokens heads head_dim"],
        v: Float[Array, "tokens heads head_dim"],
    ) -> Float[Array, "queries heads head_dim"]:
        chosen = None if self.implementation == "auto" else self.implementation
        return attention(q, k, v, implementation=chosen)


plugin = Plugin(
    name="pallas-attention",
    summary="Fused attention with its tangent: Mosaic GPU, Triton or XLA",
    provides={Slot.attention: itself},
    config=PallasAttention,
)
