"""Adaptive double normalization: the sCM paper's stable modulation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNorm, NormFactory
from scmkit.plugin import Context, Plugin, Slot
from scmkit.types import Key
from scmkit_plugins.layers.linear import Linear, last_axis
from scmkit_plugins.layers.magnitude import MPLayer
from scmkit_plugins.layers.normalize import group_norm, rms_norm

NORMS: dict[str, Callable[..., Array]] = {"rms": rms_norm, "group": group_norm}


@dataclass(frozen=True)
class Options:
    """Options of adaptive double normalization."""

    norm: Literal["rms", "group"] = "rms"
    """How `x` is normalized: RMS over the channels (EDM2), or in groups (DDPM++)."""
    shift: bool = True
    """Whether there is `b(t)`; EDM2 has no biases, and sCM's parameter counts have no room for it there."""
    weights: Literal["plain", "normalised"] = "plain"
    """How the linear layer is parameterized: plain, or of weights forced to unit RMS (EDM2)."""


def pnorm(a: Float[Array, " c"]) -> Float[Array, " c"]:
    r"""$a / \sqrt{\mathrm{mean}_c\, a^2 + 10^{-8}}$: unit RMS whatever the scale of `a`."""
    return rms_norm(a, eps=1e-8)


class AdaptiveDoubleNorm(AbstractNorm):
    r"""$y = \mathrm{norm}(x)\, \mathrm{pnorm}(s(e)) + \mathrm{pnorm}(b(e))$.

    Normalizing the modulation as well bounds its time derivative (arXiv 2410.11081, Section 4.1).
    There is no `1 + s`: `pnorm` would only see the sum's direction.
    """

    modulation: Linear | MPLayer
    options: Options = eqx.field(static=True)

    def __init__(self, channels: int, dim: int, *, options: Options = Options(), key: Key) -> None:
        # Never zero: pnorm has slope 1e4 at 0, and s = 0 would silence the layer. The scale starts
        # about 1, so that few channels begin with their sign turned.
        out = (2 if options.shift else 1) * channels
        if options.weights == "normalised":
            self.modulation = MPLayer(dim, out, key=key)
        else:
            modulation = Linear(dim, out, key=key)
            bias = modulation.bias.at[:channels].set(1.0)
            self.modulation = eqx.tree_at(lambda m: m.bias, modulation, bias)
        self.options = options

    def __call__(
        self, x: Float[Array, "*space c"], emb: Float[Array, " dim"]
    ) -> Float[Array, "*space c"]:
        modulation, y = self.modulation(emb), NORMS[self.options.norm](x)
        if not self.options.shift:
            return y * last_axis(pnorm(modulation), x)
        s, b = jnp.split(modulation, 2)
        return y * last_axis(pnorm(s), x) + last_axis(pnorm(b), x)


def build(config: Options, context: Context, *, key: Key) -> NormFactory:
    return partial(AdaptiveDoubleNorm, options=config)


plugin = Plugin(
    name="adaptive-double-norm",
    summary="Adaptive double normalization (sCM, arXiv 2410.11081, Section 4.1)",
    provides={Slot.norm: build},
    config=Options,
)
