"""Weights of residuals: bounded tangents, adaptive powers, and a learned function of the noise level."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractTimeEmbedding
from scmkit.types import Scalar

Normalization = Literal["l2", "rms", "clip", "none"]


def bound(
    g: Float[Array, "*shape"], normalize: Normalization, constant: float
) -> Float[Array, "*shape"]:
    """`g / (|g| + c)` in the L2 or RMS norm, or `g` clipped to `[-c, c]`, or `g` itself.

    arXiv 2410.11081, Section 4.2 (tangent normalization, tangent clipping).
    """
    if normalize == "none":
        return g
    if normalize == "clip":
        return jnp.clip(g, -constant, constant)
    norm = jnp.sqrt(jnp.sum(g**2) if normalize == "l2" else jnp.mean(g**2))
    return g / (norm + constant)


def adaptive(square: Scalar, power: float, constant: float) -> Scalar:
    r"""$\Delta^2 / \mathrm{sg}(\Delta^2 + c)^p$ of a squared residual $\Delta^2$ (arXiv 2505.13447, Eq. 22);
    a `power` of 0 leaves it as it is."""
    return square / jax.lax.stop_gradient(square + constant) ** power


class LogWeight(eqx.Module):
    r"""$w_\phi(t)$, a linear function of time features; the loss is $e^{w} \ell - w$.

    At its optimum $e^{w}\, E[\ell \mid t] = 1$: every noise level weighs the same
    (arXiv 2312.02696, Appendix B.2; arXiv 2410.11081, Section 4.2). Starts at zero.
    """

    embedding: AbstractTimeEmbedding
    weight: Float[Array, " dim"]
    bias: Scalar

    def __init__(self, embedding: AbstractTimeEmbedding) -> None:
        self.embedding = embedding
        self.weight = jnp.zeros(embedding.dim)
        self.bias = jnp.zeros(())

    def __call__(self, c_noise: Float[Array, " k"]) -> Scalar:
        """`w(t)` at the noise labels of `t`."""
        features = self.embedding(c_noise) / jnp.sqrt(self.weight.shape[0])
        return self.weight @ features + self.bias
