r"""Projections on the known part of a sample.

Zero-shot editing asks for an invertible linear map $A$ after which some coordinates are known
(arXiv 2303.01469, Algorithm 4). All it takes of $A$ is $P = A^{-1} M A$, with $M$ the mask of the known
coordinates: the part of a sample that is known.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from scmkit.errors import UsageError

Projection = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]
"""A linear map `P` of samples with `P(P(x)) = P(x)`."""


def nothing(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Nothing is known."""
    return jnp.zeros_like(x)


class Pixels(eqx.Module):
    """The values where `known` is true, which broadcasts against a sample: inpainting."""

    known: Bool[Array, "..."]

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.where(jnp.broadcast_to(self.known, x.shape), x, 0)


class Luminance(eqx.Module):
    r"""The luminance of an RGB image: colorization.

    $q q^\top x$ for each pixel, $q$ the unit vector along Rec. 601's weights (arXiv 2303.01469,
    Appendix D). Raises `UsageError` for other than three channels.
    """

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        if x.shape[0] != 3:
            raise UsageError(f"color has three channels, and this data has {x.shape[0]}")
        weights = jnp.asarray([0.2989, 0.5870, 0.1140], x.dtype)
        q = weights / jnp.linalg.norm(weights)
        return q[:, None, None] * jnp.tensordot(q, x, axes=1)[None]


class BlockMeans(eqx.Module):
    """The means of blocks of `factor` by `factor` pixels: super-resolution.

    Raises `UsageError` where the blocks do not fill the image.
    """

    factor: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        (c, h, w), f = x.shape, self.factor
        if f < 1 or h % f or w % f:
            raise UsageError(f"blocks of {f}x{f} pixels do not fill an image of {h}x{w}")
        blocks = x.reshape(c, h // f, f, w // f, f)
        means = jnp.mean(blocks, axis=(2, 4), keepdims=True)
        return jnp.broadcast_to(means, blocks.shape).reshape(x.shape)
