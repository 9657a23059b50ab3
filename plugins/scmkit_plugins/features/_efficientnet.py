"""EfficientNet-Lite0: arXiv 1905.11946's network with ReLU6, without squeeze-and-excitation, channels last.

(https://github.com/tensorflow/tpu, models/official/efficientnet/lite.)
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from scmkit_plugins.features._folding import NORMALISATION, Folded, Map, folded


class Stage(NamedTuple):
    """Blocks in a row, the first of which may halve the map."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM, HEAD, CLASSES = 32, 1280, 1000
"""Channels before and after the stages, and ImageNet's classes."""

REDUCTION = 32
"""How many times smaller than the image the last map is."""


class Block(eqx.Module):
    """An inverted residual: channels expanded, each filtered alone, and projected back."""

    expand: Folded | None
    depthwise: Folded
    project: Folded
    stride: int = eqx.field(static=True)
    residual: bool = eqx.field(static=True)

    def __call__(self, x: Map) -> Map:
        y = x if self.expand is None else jax.nn.relu6(self.expand(x))
        y = self.project(jax.nn.relu6(_depthwise(y, self.depthwise, self.stride)))
        return x + y if self.residual else y


def _depthwise(x: Map, layer: Folded, stride: int) -> Map:
    """A "SAME" convolution of each channel alone, as a sum of shifted maps.

    On a CPU, where XLA has no fast grouped convolution, it is 5 to 8 times as fast as one.
    """
    (height, width, c), size = x.shape, len(layer.kernel)
    total = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in (height, width)]
    x = jnp.pad(x, (*((pad // 2, pad - pad // 2) for pad in total), (0, 0)))
    last = [side - size + 1 for side in x.shape[:2]]
    y = jnp.broadcast_to(layer.bias, (*(-(-side // stride) for side in last), c))
    for i, j in np.ndindex(size, size):
        part = lax.slice(x, (i, j, 0), (i + last[0], j + last[1], c), (stride, stride, 1))
        y = y + part * layer.kernel[i, j][None]
    return y


class EfficientNetLite0(eqx.Module):
    """The network in evaluation mode, its batch normalisation folded into the convolutions."""

    stem: Folded
    blocks: tuple[Block, ...]
    head: Folded
    classifier_weight: Float[Array, "1280 classes"]
    classifier_bias: Float[Array, " classes"]

    def maps(self, image: Float[Array, "height width 3"]) -> tuple[Map, ...]:
        """Of an image with values in [-127, 128] / 128 the last map of each size, and that of the head."""
        x = jax.nn.relu6(self.stem(image, stride=2))
        found = []
        for block in self.blocks:
            if block.stride > 1:
                found.append(x)
            x = block(x)
        return *found, x, jax.nn.relu6(self.head(x))

    def logits(self, features: Float[Array, " 1280"]) -> Float[Array, " classes"]:
        """The classifier's output for the mean of the head's map."""
        return features @ self.classifier_weight + self.classifier_bias


class _Names(NamedTuple):
    """The names of a block's parts in a state dict; `expand` is None where there is none."""

    expand: tuple[str, str] | None
    depthwise: tuple[str, str]
    project: tuple[str, str]


def _blocks() -> Iterator[tuple[_Names, Stage, int, int]]:
    """Names, stage, channels of the input, and stride of every block."""
    number, channels = 0, STEM
    for stage in STAGES:
        for repeat in range(stage.repeats):
            at = f"_blocks.{number}"
            names = _Names(
                (f"{at}._expand_conv", f"{at}._bn0") if stage.expansion > 1 else None,
                (f"{at}._depthwise_conv", f"{at}._bn1"),
                (f"{at}._project_conv", f"{at}._bn2"),
            )
            yield names, stage, channels, 1 if repeat else stage.stride
            number, channels = number + 1, stage.channels


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, by its name in PyTorch's state dict."""
    found: dict[str, tuple[int, ...]] = {}

    def add(names: tuple[str, str], out: int, in_: int, kernel: int) -> None:
        convolution, norm = names
        found[f"{convolution}.weight"] = (out, in_, kernel, kernel)
        found.update({f"{norm}.{part}": (out,) for part in NORMALISATION})

    add(("_conv_stem", "_bn0"), STEM, 3, 3)
    for names, stage, channels, _ in _blocks():
        inner = channels * stage.expansion
        if names.expand is not None:
            add(names.expand, inner, channels, 1)
        add(names.depthwise, inner, 1, stage.kernel)
        add(names.project, stage.channels, inner, 1)
    add(("_conv_head", "_bn1"), HEAD, STAGES[-1].channels, 1)
    return found | {"_fc.weight": (CLASSES, HEAD), "_fc.bias": (CLASSES,)}


def assembled(arrays: Mapping[str, np.ndarray]) -> EfficientNetLite0:
    """The network with these parameters."""
    blocks = [
        Block(
            expand=None if names.expand is None else folded(arrays, *names.expand),
            depthwise=folded(arrays, *names.depthwise),
            project=folded(arrays, *names.project),
            stride=stride,
            residual=stride == 1 and channels == stage.channels,
        )
        for names, stage, channels, stride in _blocks()
    ]
    return EfficientNetLite0(
        stem=folded(arrays, "_conv_stem", "_bn0"),
        blocks=tuple(blocks),
        head=folded(arrays, "_conv_head", "_bn1"),
        classifier_weight=jnp.asarray(arrays["_fc.weight"].T, jnp.float32),
        classifier_bias=jnp.asarray(arrays["_fc.bias"], jnp.float32),
    )
