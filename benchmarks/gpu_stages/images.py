"""Images of stages f and g: a store of them on the way in; of f, files of samples on the way out."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from scmkit.data import Store, import_data
from scmkit.data.layout import METADATA_FILE
from scmkit.data.readers.idx import has_idx
from scmkit.storage.files import write_bytes

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts it."""

LARGEST = 15 << 20
"""Bytes of a file of samples; more are put into several."""


def store(given: str | None, folder: Path) -> Store:
    """The store at a path, or what can be imported from there, imported into `folder`.

    Raises `FileNotFoundError` where nothing is given and Fashion-MNIST is not installed: nothing is
    downloaded, and no data is made up.
    """
    if given is None and not has_idx(FASHION_MNIST):
        raise FileNotFoundError(
            f"no images to train on: give a store, an .npz, a folder of images or MNIST's files with --data "
            f"PATH (there is nothing in {FASHION_MNIST})"
        )
    path = FASHION_MNIST if given is None else Path(given)
    if (path / METADATA_FILE).is_file():
        return Store(path)
    return import_data(path, folder / "images.store")


def noise(folder: Path) -> str:
    """A file of something to rehearse with, in `folder`."""
    rng, file = np.random.default_rng(0), folder / "noise.npz"
    made: dict[str, Any] = {}
    for split, n in (("train", 32), ("test", 8)):
        made[f"x_{split}"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        made[f"y_{split}"] = np.arange(n) % 3
    np.savez(file, **made)
    return str(file)


def save(
    out: Path, name: str, x: Float[np.ndarray, "n c h w"], labels: Int[np.ndarray, " n"] | None
) -> list[Path]:
    """Samples in [-1, 1] as 8 bits, in as many `NAME-samples-I.npz` as keep each below `LARGEST`."""
    images = np.rint((x + 1) * 127.5).clip(0, 255).astype(np.uint8)
    pieces = 1
    while True:
        parts = np.array_split(np.arange(len(images)), pieces)
        files = [_encoded(images[i], None if labels is None else labels[i]) for i in parts]
        if pieces >= len(images) or max(map(len, files)) <= LARGEST:
            break
        pieces += 1
    paths = [out / f"{name}-samples-{i}.npz" for i in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        write_bytes(path, content)
    return paths


def load(folder: Path, name: str) -> UInt8[np.ndarray, "n c h w"]:
    """What `save` wrote under a name. Raises `FileNotFoundError`."""
    paths = sorted(folder.glob(f"{name}-samples-*.npz"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} has no {name}-samples-0.npz; stage f of gpu.py writes it"
        )
    parts = []
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            parts.append(arrays["images"])
    return np.concatenate(parts)


def _encoded(images: UInt8[np.ndarray, "n c h w"], labels: Int[np.ndarray, " n"] | None) -> bytes:
    buffer = io.BytesIO()
    if labels is None:
        np.savez_compressed(buffer, images=images)
    else:
        np.savez_compressed(buffer, images=images, labels=labels.astype(np.int32))
    return buffer.getvalue()
