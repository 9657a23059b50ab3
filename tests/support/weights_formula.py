"""Parameters and images by formula, for networks here and in PyTorch: too many to keep.

`benchmarks/parity_*.py` give them to the original definitions.
"""

import math
import zlib

import numpy as np


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random, but for the name always the same; of a size that keeps signals of size 1."""
    uniform = _uniform(name, shape)
    if len(shape) > 1:
        uniform *= math.sqrt(6 / math.prod(shape[1:]))
    elif name.endswith((".weight", "running_var")):  # Of batch normalisation.
        uniform = 1 + uniform / 2
    else:
        uniform /= 2
    return uniform.astype(np.float32)


def images(shape: tuple[int, ...]) -> np.ndarray:
    """Of 8 bits."""
    return np.floor((_uniform(str(shape), shape) + 1) * 128).astype(np.uint8)


def _uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """In [-1, 1), from raw bits, whose stream NumPy guarantees."""
    bits = np.random.Philox(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return ((bits >> np.uint64(11)) / 2**52 - 1).reshape(shape)
