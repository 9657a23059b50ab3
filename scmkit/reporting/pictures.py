"""Pictures inside the page, as data."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from scmkit.reporting.markup import Html, element
from scmkit.sampling import image_grid


def embedded(pixels: UInt8[np.ndarray, "height width 3"], alt: str, **attributes: str) -> Html:
    """An `img` that holds its own PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    height, width, _ = pixels.shape
    return element("img", src=source, alt=alt, width=width, height=height, **attributes)


def grid(
    images: Float[np.ndarray, "n c h w"],
    columns: int,
    alt: str,
    captions: Sequence[str] | None = None,
) -> Html:
    """Many images in [-1, 1] as one picture."""
    return embedded(image_grid(images, columns, captions=captions), alt, class_="grid")


def tile(image: Float[np.ndarray, "c h w"], alt: str) -> Html:
    """One image in [-1, 1], magnified by the page."""
    image = image if image.shape[0] == 3 else np.repeat(image[:1], 3, axis=0)
    pixels = np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
    return embedded(pixels, alt, class_="tile")
