"""A small data set in MNIST's format: ten classes of 28x28 grey images, in four files."""

import gzip
import struct
from pathlib import Path

import numpy as np


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def write_mnist_format(folder: Path, train: int = 40, test: int = 20) -> Path:
    """Writes the four files, gzipped, into `folder`; class `c` is a bar of height `2 c + 2` and noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, size in (("train", train), ("t10k", test)):
        labels = np.arange(size, dtype=np.uint8) % 10
        images = rng.integers(0, 50, (size, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[: 2 * label + 2, 10:18] += 200
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder
