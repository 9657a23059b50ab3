"""A dense convolution with channels last, and the initial weights of the published U-Nets."""

import math
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.types import Key
from scmkit_plugins.layers.linear import Linear, initial_weight, last_axis


class Conv(eqx.Module):
    """A dense 3x3 convolution, channels last: XLA's fastest layout on a CPU."""

    weight: Float[Array, "3 3 in out"]
    bias: Float[Array, " out"]

    def __init__(self, in_: int, out: int, *, scale: float = 1.0, key: Key) -> None:
        self.weight = initial_weight((3, 3, in_, out), scale, key=key)
        self.bias = jnp.zeros(out)

    def __call__(self, x: Float[Array, "h w in"]) -> Float[Array, "h w out"]:
        y = jax.lax.conv_general_dilated(
            x[None],
            self.weight.astype(x.dtype),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0]
        return y + last_axis(self.bias, y)


Layer = TypeVar("Layer", Linear, Conv)


def xavier(kind: type[Layer], in_: int, out: int, *, gain: float = 1.0, key: Key) -> Layer:
    r"""A layer with weights uniform in $\pm g \sqrt{6 / (fan_{in} + fan_{out})}$ and a bias of 0.

    (Glorot and Bengio, 2010; Score SDE, arXiv 2011.13456.)
    """
    layer = kind(in_, out, scale=0, key=key)
    shape = layer.weight.shape
    bound = gain * math.sqrt(6 / (math.prod(shape[:-2]) * (in_ + out)))
    weight = jr.uniform(key, shape, minval=-bound, maxval=bound)
    return eqx.tree_at(lambda m: m.weight, layer, weight)
