"""Image files of strangers: opened, described and decoded, or refused with a reason."""

import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from scmkit.data.readers.images import fit

_T = TypeVar("_T")

MAX_PIXELS = 89_478_485
"""Pixels of one image, by default: Pillow's limit against decompression bombs, 256 MiB in RGB."""

NO_IMAGE = "not an image"
"""The reason of a file that is no image at all."""

_FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "BMP",
    "DIB",
    "GIF",
    "WEBP",
    "TIFF",
    "PPM",
    "TGA",
    "JPEG2000",
    "AVIF",
)
"""Formats of pixels. Others of Pillow's start programs (EPS starts Ghostscript) or read several files."""

_GRAY = {"1", "L", "LA", "La"}
_DEEP = {"I", "F"}
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258


class BadImage(Exception):
    """Why a file cannot be imported."""


class _TooMuchText(Exception):
    """A PNG holds more text than Pillow reads."""


@dataclass(frozen=True)
class Header:
    """What is known of an image before its pixels are decoded."""

    width: int
    height: int
    gray: bool


def described(file: Path, max_pixels: int, *, decode: bool = False) -> Header:
    """The header of an image; raises `BadImage`, with `decode` also for what only decoding tells."""
    header = _opened(file, _describe, max_pixels)
    if decode:
        _opened(file, Image.Image.load, max_pixels)
    return header


def decoded(
    file: Path, size: int | None, gray: bool, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "c h w"]:
    """The pixels of an image (see `fit`), turned as its camera says; raises `BadImage`."""

    def use(image: Image.Image) -> np.ndarray:
        return fit(ImageOps.exif_transpose(image), size, gray)

    return _opened(file, use, max_pixels)


def loaded(file: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image, of a file or of its bytes, decoded and turned as its camera says.

    Raises `BadImage`, also for more than 8 bits.
    """

    def use(image: Image.Image) -> Image.Image:
        _describe(image)
        return ImageOps.exif_transpose(image).copy()

    return _opened(file, use, max_pixels)


def undecodable(files: Iterable[Path], max_pixels: int) -> list[tuple[Path, str]]:
    """Those of the files that cannot be decoded, with the reason."""
    bad = []
    for file in files:
        try:
            _opened(file, Image.Image.load, max_pixels)
        except BadImage as error:
            bad.append((file, str(error)))
    return bad


def _opened(file: Path | bytes, use: Callable[[Image.Image], _T], max_pixels: int) -> _T:
    if isinstance(file, Path) and not file.is_file():
        raise BadImage("no regular file")
    try:
        return _used(file if isinstance(file, Path) else io.BytesIO(file), use, max_pixels)
    except _TooMuchText:
        with file.open("rb") if isinstance(file, Path) else io.BytesIO(file) as stream:
            return _used(io.BytesIO(_without_text(stream)), use, max_pixels)


def _used(source: Path | io.BytesIO, use: Callable[[Image.Image], _T], max_pixels: int) -> _T:
    Image.init()
    try:
        with warnings.catch_warnings():
            # Our limit is the limit; Pillow's own raises from twice its value on.
            warnings.simplefilter("ignore")
            with Image.open(source, formats=[f for f in _FORMATS if f in Image.OPEN]) as image:
                if image.width * image.height > max_pixels:
                    raise BadImage(f"more than {max_pixels} pixels")
                return use(image)
    except Image.DecompressionBombError:
        raise BadImage(f"more than {max_pixels} pixels") from None
    except UnidentifiedImageError:
        raise BadImage(NO_IMAGE) from None
    except MemoryError:
        raise BadImage("damaged image (it asks for more memory than there is)") from None
    except BadImage:
        raise
    # What damaged images make Pillow's readers raise has no common base.
    except Exception as error:
        if "MAX_TEXT" in str(error):
            raise _TooMuchText from None
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise BadImage(f"damaged image ({first})") from None


def _without_text(stream: BinaryIO) -> bytes:
    """A PNG less the chunks of text and colour profiles, which no pixel depends on."""
    kept = io.BytesIO()
    kept.write(stream.read(8))
    while len(head := stream.read(8)) == 8:
        length = int.from_bytes(head[:4]) + 4  # And the checksum.
        if head[4:] in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            stream.seek(length, io.SEEK_CUR)
        else:
            kept.write(head + stream.read(length))
    return kept.getvalue()


def _describe(image: Image.Image) -> Header:
    bits = _bits(image)
    if image.mode.split(";")[0] in _DEEP or bits > 8:
        shown = f"{bits} in mode {image.mode}" if bits > 8 else f"mode {image.mode}"
        raise BadImage(f"pixels of more than 8 bits a channel ({shown}); convert it to 8")
    width, height = image.size
    # Cameras store the rotation instead of applying it; see exif_transpose above.
    if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
        width, height = height, width
    return Header(width, height, gray=image.mode in _GRAY)


def _bits(image: Image.Image) -> int:
    """Bits of a channel in the file, which Pillow cuts to 8 in most modes; 8 where it does not say."""
    tiles = getattr(image, "tile", None)
    layout = tiles[0].args if tiles else ""
    if image.format == "PNG":
        return 16 if "16" in str(layout) else 8
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,)))
    if image.format == "PPM":
        largest = layout[1] if isinstance(layout, tuple) and len(layout) == 2 else 255
        return int(largest).bit_length()
    stream = getattr(image, "fp", None)
    if image.format in ("JPEG2000", "AVIF") and stream is not None:
        place = stream.tell()
        stream.seek(0)
        start = stream.read(_START)
        stream.seek(place)
        return _jpeg2000_bits(start) if image.format == "JPEG2000" else _avif_bits(start)
    return 8


_START = 1 << 16


def _jpeg2000_bits(start: bytes) -> int:
    """From the first component's depth in the SIZ segment (ITU-T T.800, A.5.1)."""
    depth = start[start.find(b"\xff\x4f\xff\x51") + 42 :][:1]
    return (depth[0] & 0x7F) + 1 if depth and b"\xff\x4f\xff\x51" in start else 8


def _avif_bits(start: bytes) -> int:
    """From the flags `high_bitdepth` and `twelve_bit` of the box av1C (AV1 in ISOBMFF, 2.3)."""
    flags = start[start.find(b"av1C") + 6 :][:1]
    if not flags or b"av1C" not in start or not flags[0] & 0x40:
        return 8
    return 12 if flags[0] & 0x20 else 10
