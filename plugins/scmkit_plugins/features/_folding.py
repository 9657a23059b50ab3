"""Convolutions with the batch normalisation after them folded in, channels last."""

from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scmkit_plugins.layers.linear import last_axis

EPSILON = 1e-3
"""Of the batch normalisation, in TensorFlow's networks."""

NORMALISATION = ("weight", "bias", "running_mean", "running_var")
"""The parameters of each."""

Map = Float[Array, "_ _ _"]
"""Height, width and channels."""


class Folded(eqx.Module):
    """A convolution and the normalisation after it, or any other bias."""

    kernel: Float[Array, "kh kw in out"]
    bias: Float[Array, " out"]

    def __call__(
        self,
        x: Map,
        *,
        stride: int = 1,
        padding: Literal["SAME", "VALID"] = "SAME",
    ) -> Map:
        y = lax.conv_general_dilated(
            x[None],
            self.kernel,
            window_strides=(stride, stride),
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        return y + last_axis(self.bias, y)


def folded(arrays: Mapping[str, np.ndarray], convolution: str, norm: str) -> Folded:
    """The convolution and the batch normalisation of these names in a state dict."""
    scale, shift, mean, variance = (
        arrays[f"{norm}.{part}"].astype(np.float64) for part in NORMALISATION
    )
    scale = scale / np.sqrt(variance + EPSILON)
    kernel = arrays[f"{convolution}.weight"].astype(np.float64).transpose(2, 3, 1, 0)
    return Folded(
        kernel=jnp.asarray(kernel * scale, jnp.float32),
        bias=jnp.asarray(shift - mean * scale, jnp.float32),
    )
