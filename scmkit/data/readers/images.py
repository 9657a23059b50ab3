"""Bringing images to one size and one number of channels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from scmkit.data.readers.source import Block, Source
from scmkit.errors import DataError
from scmkit.interfaces import Split


def fit(image: Image.Image, size: int | None, grayscale: bool) -> UInt8[np.ndarray, "c h w"]:
    """The image as uint8 `c h w`: centre crop to a square, then Lanczos to `size`, if one is given.

    Transparency is laid over white.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if grayscale else "RGB")
    if size is not None and image.size != (size, size):
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        # Not resize(box=...): its filter reaches over the edge of the box.
        image = image.crop(box).resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if grayscale else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def refit(source: Source, path: Path, size: int | None, grayscale: bool | None) -> Source:
    """A source of image arrays with `fit` applied; itself where there is nothing to do.

    Raises `DataError` where the samples are not uint8 images.
    """
    if size is None and grayscale is None:
        return source
    if source.dtype != "uint8":
        raise DataError(
            f"{path}: size and grayscale apply to uint8 images, and this holds float samples of "
            f"shape {source.shape}; leave them out, or convert the data first"
        )
    channels, height, width = source.shape
    gray = channels == 1 if grayscale is None else grayscale
    shape = (1 if gray else 3, *((height, width) if size is None else (size, size)))

    def read(split: Split) -> Iterator[Block]:
        for samples, labels in source.read(split):
            images = (
                Image.fromarray(x[0] if channels == 1 else x.transpose(1, 2, 0)) for x in samples
            )
            yield np.stack([fit(image, size, gray) for image in images]), labels

    return replace(source, shape=shape, read=read)
