"""LPIPS as its definition reads, in NumPy and float64, channels first, one image at a time."""

from collections.abc import Mapping

import numpy as np

LAYERS = (64, 64, "pool", 128, 128, "pool", *[256] * 3, "pool", *[512] * 3, "pool", *[512] * 3)
"""VGG16's convolutions, each followed by a ReLU, and pools; what is compared stands before each pool."""

SHIFT = np.asarray([-0.030, -0.088, -0.188])[:, None, None]
SCALE = np.asarray([0.458, 0.448, 0.450])[:, None, None]


def convolution(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3x3 of `(in, h, w)` by `(out, in, 3, 3)`, padded with zeros."""
    height, width = x.shape[1:]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    taps = [
        np.tensordot(kernel[:, :, i, j], x[:, i : i + height, j : j + width], 1)
        for i, j in np.ndindex(3, 3)
    ]
    return sum(taps) + bias[:, None, None]


def stages(arrays: Mapping[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """What VGG16 makes of an image `(3, h, w)`, by torchvision's numbers of layers."""
    found, number = [], 0
    for layer in LAYERS:
        if layer == "pool":
            found.append(x)
            height, width = x.shape[1:]
            x = x[:, : height // 2 * 2, : width // 2 * 2]
            x = np.max([x[:, i::2, j::2] for i, j in np.ndindex(2, 2)], axis=0)
            number += 1
        else:
            kernel, bias = (arrays[f"features.{number}.{part}"] for part in ("weight", "bias"))
            assert len(kernel) == layer
            x = np.maximum(convolution(x, kernel.astype(np.float64), bias), 0)
            number += 2
    return [*found, x]


def lpips(
    arrays: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray
) -> float:
    """The distance of two images `(3, h, w)` in [-1, 1]."""
    total = 0.0
    both = (stages(arrays, (image.astype(np.float64) - SHIFT) / SCALE) for image in (x, y))
    for i, maps in enumerate(zip(*both, strict=True)):
        a, b = (m / (np.sqrt((m**2).sum(0, keepdims=True)) + 1e-10) for m in maps)
        head = heads[f"lin{i}.model.1.weight"].ravel()
        total += np.tensordot(head, (a - b) ** 2, 1).mean()
    return float(total)
