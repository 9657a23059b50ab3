"""A Fourier layer over the times of a trajectory, which are the axis of a vmap."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TIMES = "times"
"""The name of the vmapped axis over which the layer mixes."""


class TemporalFourier(eqx.Module):
    r"""$h_j + \mathrm{SiLU}(\mathcal F^{-1}(R_k\,\mathcal F(h)_k))_j$, on the lowest frequencies alone.

    $\mathcal F$ is the discrete Fourier transform over the `TIMES` axis, $R_k$ a complex matrix of the
    channels for each of the `modes` lowest frequencies. It starts silent (DFNO, arXiv 2211.13449,
    Section 3.2; devzhk/DSNO-pytorch, `TimeConv`, whose LeakyReLU has kinks that forward mode cannot see).
    """

    weight: Float[Array, "2 modes c c"]
    """Real and imaginary parts of $R$."""

    def __init__(self, channels: int, modes: int) -> None:
        self.weight = jnp.zeros((2, modes, channels, channels))

    def __call__(self, h: Float[Array, "*space c"]) -> Float[Array, "*space c"]:
        times, j = jax.lax.psum(1, TIMES), jax.lax.axis_index(TIMES)
        mixed = jnp.zeros_like(h)
        # Few frequencies of few times: sums, where a fast transform would have to gather all times.
        for k in range(min(self.weight.shape[1], times // 2 + 1)):
            angles = 2 * np.pi * k * np.arange(times) / times
            cos, sin = (jnp.asarray(a, h.dtype)[j] for a in (np.cos(angles), np.sin(angles)))
            re, im = jax.lax.psum(cos * h, TIMES), -jax.lax.psum(sin * h, TIMES)
            a, b = self.weight[:, k].astype(h.dtype)
            # Of a real signal every frequency but the first and the last stands for two.
            share = (1 if k in (0, times / 2) else 2) / times
            mixed = mixed + share * (cos * (re @ a - im @ b) - sin * (re @ b + im @ a))
        return h + jax.nn.silu(mixed)
