"""Images that Pillow would read otherwise than as they are, or not at all."""

import io
import struct
import zlib

import numpy as np
import pytest
from import_files import as_pixels, everything, images, refused, save
from PIL import Image, PngImagePlugin, features

from scmkit.data import import_data
from scmkit.data.readers.decoding import _avif_bits


def png(pixels, bits, colour):
    """A PNG of so many bits a channel, as no writer of Pillow makes them."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg2000(bits):
    buffer = io.BytesIO()
    Image.fromarray(images(1, 8, 8, 3)[0]).save(buffer, "JPEG2000", no_jp2=True)
    content = bytearray(buffer.getvalue())
    assert content[42] == 7
    content[42] = bits - 1
    return bytes(content)


def deep_tiff():
    """A TIFF of one RGB pixel of 16 bits, little endian."""
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return head + struct.pack("<3H", 16, 16, 16) + struct.pack("<3H", 1, 2, 3)


DEEP = {
    "gray.png": png(np.zeros((8, 8), ">u2"), 16, 0),
    "gray-alpha.png": png(np.zeros((8, 8, 2), ">u2"), 16, 4),
    "colour.png": png(np.zeros((8, 8, 3), ">u2"), 16, 2),
    "alpha.png": png(np.zeros((8, 8, 4), ">u2"), 16, 6),
    "a.ppm": b"P6 8 8 65535\n" + bytes(384),
    "a.jp2": jpeg2000(16),
    "a.tif": deep_tiff(),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_images_of_every_kind_are_refused(tmp_path, name):
    save(tmp_path / "in/1.png", images(1, 8, 8, 3)[0])
    (tmp_path / "in" / name).write_bytes(DEEP[name])
    refused(tmp_path / "in", tmp_path, f"{name}: pixels of more than 8 bits a channel (")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize(("flags", "bits"), [(0x0C, 8), (0x4C, 10), (0x6C, 12)])
def test_the_depth_of_avif(flags, bits):
    assert _avif_bits(b"....av1C\x81\x00" + bytes([flags, 0])) == bits


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "RGBA", "LA"])
def test_images_of_eight_bits_are_not_refused(tmp_path, mode):
    kinds = {"CMYK": ("tif", "jpg"), "LA": ("png", "tif"), "RGBA": ("png", "tif", "webp")}
    pixels = images(1, 8, 8, 3)[0]
    for kind in kinds.get(mode, ("png", "tif", "bmp")):
        save(tmp_path / f"in/a.{kind}", pixels, mode)
    store = import_data(tmp_path / "in", tmp_path / "store", test_fraction=0.0)
    assert store.size("train") == len(kinds.get(mode, "123"))


def test_text_in_a_png_is_no_damage(tmp_path):
    pixels = images(1, 8, 8, 3)[0]
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in/1.png", pnginfo=text)
    store = import_data(tmp_path / "in", tmp_path / "a", test_fraction=0.0)
    np.testing.assert_array_equal(
        as_pixels(everything(store, "train")[0])[0].transpose(1, 2, 0), pixels
    )
    cut = (tmp_path / "in/1.png").read_bytes()
    (tmp_path / "in/1.png").write_bytes(cut[:-40])
    refused(tmp_path / "in", tmp_path, "1.png: damaged image")
