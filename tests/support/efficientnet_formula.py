"""EfficientNet-Lite0 as its definition reads, in NumPy and float64, one image at a time, channels first.

Nothing is folded and nothing shared with the implementation: convolutions are sums over their kernel's
offsets, padded as TensorFlow pads, and batch normalisation stays where it is.
"""

from collections.abc import Mapping

import numpy as np

KERNELS = (3, *[3] * 2, *[5] * 2, *[3] * 3, *[5] * 3, *[5] * 4, 3)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Of `(in, h, w)` by `(out, in, k, k)`, or by `(c, 1, k, k)` channel by channel."""
    size = kernel.shape[-1]
    sides = [-(-side // stride) for side in x.shape[1:]]
    pads = [max((n - 1) * stride + size - s, 0) for n, s in zip(sides, x.shape[1:], strict=True)]
    x = np.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in pads)))
    rows, columns = (n * stride for n in sides)
    depthwise, y = kernel.shape[1] == 1 and len(x) > 1, 0
    for i, j in np.ndindex(size, size):
        part = x[:, i : i + rows : stride, j : j + columns : stride]
        part = part[:, : sides[0], : sides[1]]
        tap = kernel[:, :, i, j]
        y = y + (tap[:, :, None] * part if depthwise else np.tensordot(tap, part, 1))
    return np.asarray(y)


def normalisation(arrays: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    """Batch normalisation in evaluation mode."""
    scale, shift, mean, variance = (
        arrays[f"{name}.{part}"].astype(np.float64)[:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return scale * (x - mean) / np.sqrt(variance + 1e-3) + shift


def efficientnet(arrays: Mapping[str, np.ndarray], image: np.ndarray) -> list[np.ndarray]:
    """The output of every block, and the head's map, of an image `(3, h, w)`."""

    def layer(x: np.ndarray, name: str, norm: str, stride: int = 1) -> np.ndarray:
        kernel = arrays[f"{name}.weight"].astype(np.float64)
        return normalisation(arrays, norm, convolution(x, kernel, stride))

    def relu6(x: np.ndarray) -> np.ndarray:
        return np.clip(x, 0, 6)

    x = relu6(layer(image.astype(np.float64), "_conv_stem", "_bn0", 2))
    found = []
    for i, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True)):
        name, y = f"_blocks.{i}", x
        if i:
            y = relu6(layer(y, f"{name}._expand_conv", f"{name}._bn0"))
        assert arrays[f"{name}._depthwise_conv.weight"].shape[-1] == kernel
        y = relu6(layer(y, f"{name}._depthwise_conv", f"{name}._bn1", stride))
        y = layer(y, f"{name}._project_conv", f"{name}._bn2")
        x = x + y if y.shape == x.shape else y
        found.append(x)
    return [*found, relu6(layer(x, "_conv_head", "_bn1"))]
