"""The learned weight of a loss, as a function of the noise level."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractTimeEmbedding
from scmkit.types import Scalar


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
