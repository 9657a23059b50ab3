"""A folder of images, with one subfolder for each class or none."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scmkit.data.importing.images import fit
from scmkit.data.importing.source import Block, Source, rows_per_block
from scmkit.errors import BadFilesError, DataError
from scmkit.interfaces import Split

_T = TypeVar("_T")

MAX_PIXELS = 89_478_485
"""Pixels of one image, by default: Pillow's limit against decompression bombs, 256 MiB in RGB."""

MAX_IMAGES = 20_000_000
"""Images of one folder, by default: more than ImageNet-21k has."""

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

Skipped = Callable[[Path, str], None]
"""Told of each file that was passed over, and why."""

_CLUTTER = {"Thumbs.db", "desktop.ini"}
_GRAY = {"1", "L", "LA", "La"}
_DEEP = {"I", "F"}
_ORIENTATION = 0x0112


_NO_IMAGE = "not an image"


class _Bad(Exception):
    """Why a file cannot be imported."""


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    gray: bool


def open_folder(
    path: Path,
    *,
    size: int | None = None,
    grayscale: bool | None = None,
    skip_non_images: bool = False,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_images: int = MAX_IMAGES,
    skipped: Skipped = lambda file, reason: None,
) -> Source:
    """Finds the images of a folder and reads their headers.

    Subfolders `train` and `test` at the top are splits; subfolders below are classes, numbered in
    the order of their names. Images are RGB unless all of them (or `grayscale`) say otherwise.
    Hidden files are passed over; of an animation the first frame is taken. Raises `BadFilesError`, which
    names every one, for files that are no images, damaged or cut, deeper than 8 bits or of more than
    `max_pixels`; `skip_bad` passes over them and tells `skipped` (each image is then decoded twice),
    `skip_non_images` over those that are no images. Raises `DataError` for images of different sizes (unless
    `size` is given) and for more than `max_images` of them.
    """
    roots = _splits(path)
    classes = {split: _class_folders(root) for split, root in roots.items()}
    class_names = tuple(folder.name for folder in classes["train"])
    found: dict[Split, list[tuple[Path, int]]] = {}
    headers: list[tuple[Path, _Header]] = []
    bad: list[tuple[Path, str]] = []
    listed: dict[tuple[Split, Path], list[tuple[Path, _Header]]] = {}
    count = 0
    for split, root in roots.items():
        _check_classes(path, class_names, classes[split])
        for folder in classes[split] or [root]:
            images, refused = _headers(folder, max_pixels, skip_bad)
            count += len(images)
            if count > max_images:
                raise DataError(
                    f"{path}: more than {max_images} images; raise --max-images if that is meant"
                )
            for file, reason in refused:
                if skip_bad or (skip_non_images and reason == _NO_IMAGE):
                    skipped(file, reason)
                else:
                    bad.append((file, reason))
            listed[split, folder] = images
    if bad:
        # One report of everything: what is only found by decoding belongs in it too.
        files = (file for images in listed.values() for file, _ in images)
        raise BadFilesError(path, bad + _undecodable(files, max_pixels))
    for split, root in roots.items():
        found[split] = []
        for folder in classes[split] or [root]:
            label = class_names.index(folder.name) if class_names else -1
            images = listed[split, folder]
            if not images:
                raise DataError(
                    f"{folder}: no images; give a folder of images or of class folders, none of "
                    f"them empty"
                )
            headers += images
            found[split] += [(file, label) for file, _ in images]
    if size is None:
        _check_sizes(headers)
    first = headers[0][1]
    gray = all(header.gray for _, header in headers) if grayscale is None else grayscale
    height, width = (first.height, first.width) if size is None else (size, size)
    shape = (1 if gray else 3, height, width)

    def read(split: Split) -> Iterator[Block]:
        files = found[split]
        rows = rows_per_block(shape, 1)
        for start in range(0, len(files), rows):
            block = files[start : start + rows]
            decoded = []
            for i, (file, _) in enumerate(block):
                try:
                    decoded.append(_decode(file, size, gray, max_pixels))
                except _Bad as error:
                    rest = [f for f, _ in files[start + i + 1 :]]
                    rest += [f for other in found if other != split for f, _ in found[other]]
                    bad = [(file, str(error)), *_undecodable(rest, max_pixels)]
                    raise BadFilesError(path, bad) from None
            samples = np.stack(decoded)
            labels = np.array([label for _, label in block], np.int32)
            yield samples, labels if class_names else None

    return Source(
        shape=shape,
        dtype="uint8",
        num_classes=len(class_names),
        class_names=class_names,
        sizes={split: len(files) for split, files in found.items()},
        read=read,
    )


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The subfolders and the files of a folder, sorted by name."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    entries = [folder / name for name in names if name[0] != "." and name not in _CLUTTER]
    return [e for e in entries if e.is_dir()], [e for e in entries if not e.is_dir()]


def _splits(path: Path) -> dict[Split, Path]:
    folders, files = _entries(path)
    names = {folder.name for folder in folders}
    if names == {"train"} and not files:
        return {"train": path / "train"}
    if not {"train", "test"} <= names:
        return {"train": path}
    others = [entry.name for entry in (*folders, *files) if entry.name not in ("train", "test")]
    if others:
        raise DataError(
            f"{path}: '{others[0]}' lies beside the splits train and test; "
            f"move it away, or move it into one of them"
        )
    return {"train": path / "train", "test": path / "test"}


def _class_folders(root: Path) -> list[Path]:
    folders, files = _entries(root)
    if folders and files:
        raise DataError(
            f"{root}: '{files[0].name}' lies beside class folders such as '{folders[0].name}'; "
            f"put every image into a class folder, or all of them into one folder"
        )
    return folders


def _check_classes(path: Path, class_names: tuple[str, ...], folders: list[Path]) -> None:
    unknown = [folder.name for folder in folders if folder.name not in class_names]
    if unknown:
        raise DataError(
            f"{path}: the class folder '{unknown[0]}' is in test but not in train; "
            f"add it to train or remove it"
        )
    if class_names and not folders:
        raise DataError(
            f"{path}: train has class folders and test has none; sort the test images into classes"
        )


def _headers(
    folder: Path, max_pixels: int, decode: bool
) -> tuple[list[tuple[Path, _Header]], list[tuple[Path, str]]]:
    """The images of a folder, and the files that are none or bad, with the reason."""
    inner, files = _entries(folder)
    if inner:
        raise DataError(
            f"{folder}: the class folder has a subfolder '{inner[0].name}'; "
            f"class folders hold images only, so move its images up"
        )
    good, bad = [], []
    for file in files:
        try:
            header = _opened(file, _describe, max_pixels)
            if decode:
                _opened(file, Image.Image.load, max_pixels)
            good.append((file, header))
        except _Bad as error:
            bad.append((file, str(error)))
    return good, bad


def _undecodable(files: Iterable[Path], max_pixels: int) -> list[tuple[Path, str]]:
    bad = []
    for file in files:
        try:
            _opened(file, Image.Image.load, max_pixels)
        except _Bad as error:
            bad.append((file, str(error)))
    return bad


def _opened(file: Path, use: Callable[[Image.Image], _T], max_pixels: int) -> _T:
    if not file.is_file():
        raise _Bad("no regular file")
    Image.init()
    try:
        with warnings.catch_warnings():
            # Our limit is the limit; Pillow's own raises from twice its value on.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=[f for f in _FORMATS if f in Image.OPEN]) as image:
                if image.width * image.height > max_pixels:
                    raise _Bad(f"more than {max_pixels} pixels")
                return use(image)
    except Image.DecompressionBombError:
        raise _Bad(f"more than {max_pixels} pixels") from None
    except UnidentifiedImageError:
        raise _Bad(_NO_IMAGE) from None
    except MemoryError:
        raise _Bad("damaged image (it asks for more memory than there is)") from None
    except _Bad:
        raise
    # What damaged images make Pillow's readers raise has no common base.
    except Exception as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise _Bad(f"damaged image ({first})") from None


def _describe(image: Image.Image) -> _Header:
    if image.mode.split(";")[0] in _DEEP:
        raise _Bad(f"pixels of more than 8 bits (mode {image.mode})")
    width, height = image.size
    # Cameras store the rotation instead of applying it; see exif_transpose below.
    if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
        width, height = height, width
    return _Header(width, height, gray=image.mode in _GRAY)


def _check_sizes(headers: list[tuple[Path, _Header]]) -> None:
    file, first = headers[0]
    for other, header in headers:
        if (header.width, header.height) != (first.width, first.height):
            raise DataError(
                f"images differ in size: {file} is {first.width}x{first.height}, {other} is "
                f"{header.width}x{header.height}; crop and resize all of them with --size N"
            )


def _decode(file: Path, size: int | None, gray: bool, max_pixels: int) -> np.ndarray:
    def use(image: Image.Image) -> np.ndarray:
        return fit(ImageOps.exif_transpose(image), size, gray)

    return _opened(file, use, max_pixels)
