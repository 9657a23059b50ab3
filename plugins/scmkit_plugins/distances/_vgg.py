"""VGG16's convolutions (arXiv 1409.1556), as LPIPS looks at images with them, channels last."""

from collections.abc import Mapping
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scmkit.weights import WeightFile, matching
from scmkit_plugins.features._folding import Folded, Map

STAGES = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
"""Channels of the convolutions of each stage; between stages the map is halved."""

SMALLEST = 2 ** (len(STAGES) - 1)
"""The least side of an image of which every stage has something left."""


class VGG16(eqx.Module):
    """The thirteen convolutions, by stage."""

    stages: tuple[tuple[Folded, ...], ...]

    def __call__(self, image: Float[Array, "height width 3"]) -> tuple[Map, ...]:
        """The last map of every stage."""
        x, found = image, []
        for stage in self.stages:
            x = _halved(x) if found else x
            for convolution in stage:
                x = jax.nn.relu(convolution(x))
            found.append(x)
        return tuple(found)


def _halved(x: Map) -> Map:
    """The maximum of every two by two positions. Reshaped, since a window's has no second derivative."""
    height, width, c = (x.shape[0] // 2, x.shape[1] // 2, x.shape[2])
    return x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, c).max((1, 3))


def names() -> tuple[tuple[str, ...], ...]:
    """The names of the convolutions of each stage in torchvision's state dict."""
    found, index = [], 0
    for stage in STAGES:
        found.append(tuple(f"features.{index + 2 * i}" for i in range(len(stage))))
        index += 2 * len(stage) + 1
    return tuple(found)


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, by its name in torchvision's state dict."""
    found: dict[str, tuple[int, ...]] = {}
    channels = 3
    for stage, called in zip(STAGES, names(), strict=True):
        for out, name in zip(stage, called, strict=True):
            found |= {f"{name}.weight": (out, channels, 3, 3), f"{name}.bias": (out,)}
            channels = out
    return found


def parameters(weights: WeightFile) -> dict[str, np.ndarray]:
    """What of a file the network needs; the names of a file of the convolutions alone lack their prefix.

    Raises `DataError` naming the parameter that is missing, superfluous, or of another shape.
    """
    if weights.prefix == "features." or "0.weight" in weights.arrays:
        arrays = {f"features.{name}": array for name, array in weights.arrays.items()}
        weights = replace(weights, arrays=arrays, prefix="")
    return matching(weights, "VGG16", shapes(), unused=("classifier.",))


def assembled(arrays: Mapping[str, np.ndarray]) -> VGG16:
    """The network with these parameters."""

    def convolution(name: str) -> Folded:
        kernel = arrays[f"{name}.weight"].transpose(2, 3, 1, 0)
        bias = arrays[f"{name}.bias"]
        return Folded(jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))

    return VGG16(tuple(tuple(map(convolution, stage)) for stage in names()))
