"""Pictures of samples."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from scmkit.data.classes import class_name
from scmkit.storage.files import write_bytes

PAPER, FRAME = 255, 96
WIDEST = 16
"""The most classes that have a column each."""


def image_grid(
    images: Float[np.ndarray, "n c h w"],
    columns: int,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Images in [-1, 1], row by row, magnified to about 64 pixels each, on a gray frame.

    One channel is gray, three are color; of other numbers the first is shown. `captions`, one for each
    image, stand below them, cut to their width.
    """
    n, channels, h, w = images.shape
    if channels != 3:
        images = np.repeat(images[:, :1], 3, axis=1)
    scale = scale or max(1, 64 // max(h, w))
    pixels = np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    rows, h, w, gap = -(-n // columns), h * scale, w * scale, 8
    font_size = max(10, h // 16)
    # Below an image there is a gap already.
    down = h + gap + (font_size if captions else 0)
    canvas = np.full((rows * down + gap, columns * (w + gap) + gap, 3), FRAME, np.uint8)
    places = [(gap + i // columns * down, gap + i % columns * (w + gap)) for i in range(n)]
    for (y, x), image in zip(places, pixels, strict=True):
        canvas[y : y + h, x : x + w] = image
    if not captions:
        return canvas
    picture, font = Image.fromarray(canvas), ImageFont.load_default(font_size)
    for (y, x), caption in zip(places, captions, strict=True):
        text = caption
        while text and font.getlength(text) > w:
            text = text[:-3] + ".." if text.endswith("..") else text[:-2] + ".."
            text = "" if text == ".." else text
        ImageDraw.Draw(picture).text((x, y + h + 1), text, (230, 230, 230), font)
    return np.asarray(picture)


def class_captions(labels: Iterable[int], names: Sequence[str]) -> list[str]:
    """The class of each image: its name, or its number where it has none that the font can draw."""
    called = {int(i): class_name(int(i), names) for i in {*labels}}
    plain = {
        i: name if name.isascii() and name.isprintable() else str(i) for i, name in called.items()
    }
    return [plain[int(i)] for i in labels]


def class_columns(n: int, num_classes: int) -> int:
    """Columns of a grid of `n` images with the classes in turn: one for each class, unless there are many."""
    return min(n, num_classes if 0 < num_classes <= WIDEST else 8)


def vector_picture(
    samples: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d"], size: int = 400
) -> UInt8[np.ndarray, "height width 3"]:
    """Vectors against data: a histogram in one dimension, else a scatter of the first two.

    Data is gray, samples are blue.
    """
    lo, hi = reference.min(0), reference.max(0)
    lo, hi = lo - 0.1 * (hi - lo), hi + 0.1 * (hi - lo)
    canvas = np.full((size, size, 3), PAPER, np.uint8)
    if reference.shape[1] == 1:
        for points, color in ((reference, (190, 190, 190)), (samples, (40, 90, 200))):
            counts, _ = np.histogram(points[:, 0], bins=size // 4, range=(lo[0], hi[0]))
            density = counts / max(len(points), 1)
            peak = max(density.max(), 1e-12) * 1.1
            heights = np.repeat(np.round(density / peak * size).astype(int), 4)[:size]
            filled = np.arange(size)[::-1, None] < heights[None, :]
            edge = filled & ~np.roll(filled, 1, axis=0)
            canvas[edge if color[2] == 200 else filled] = color
        return canvas
    for points, color in ((reference, (200, 200, 200)), (samples, (40, 90, 200))):
        unit = (points[:, :2] - lo[:2]) / (hi[:2] - lo[:2])
        inside = ((unit >= 0) & (unit < 1)).all(1)
        x, y = (unit[inside] * (size - 2)).astype(int).T
        for dx in (0, 1):
            for dy in (0, 1):
                canvas[size - 2 - y + dy, x + dx] = color
    return canvas


def side_by_side(
    *pictures: UInt8[np.ndarray, "height _ 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Pictures of one height in a row, with a gap between them."""
    gap = np.full((pictures[0].shape[0], 24, 3), PAPER, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def save_png(path: Path, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write a PNG, atomically, creating its folder."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    write_bytes(path, buffer.getvalue())
