"""A folder of images, with one subfolder for each class or none."""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scmkit.data.importing.images import fit
from scmkit.data.importing.source import Block, Source, rows_per_block
from scmkit.errors import DataError
from scmkit.interfaces import Split

_T = TypeVar("_T")

_CLUTTER = {"Thumbs.db", "desktop.ini"}
_GRAY = {"1", "L", "LA", "La"}
_DEEP = {"I", "F"}
_ORIENTATION = 0x0112


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
) -> Source:
    """Finds the images of a folder and reads their headers.

    Subfolders `train` and `test` at the top are splits; subfolders below are classes, numbered in
    the order of their names. Images are RGB unless all of them (or `grayscale`) say otherwise.
    Hidden files are passed over; of an animation the first frame is taken. Raises `DataError` for
    files that are no images (unless `skip_non_images`), images of different sizes (unless `size` is
    given), images deeper than 8 bits and ones beyond Pillow's decompression-bomb limit.
    """
    roots = _splits(path)
    classes = {split: _class_folders(root) for split, root in roots.items()}
    class_names = tuple(folder.name for folder in classes["train"])
    found: dict[Split, list[tuple[Path, int]]] = {}
    headers: list[tuple[Path, _Header]] = []
    for split, root in roots.items():
        _check_classes(path, class_names, classes[split])
        found[split] = []
        for folder in classes[split] or [root]:
            label = class_names.index(folder.name) if class_names else -1
            images = _headers(folder, skip_non_images)
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
            samples = np.stack([_decode(file, size, gray) for file, _ in block])
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


def _headers(folder: Path, skip_non_images: bool) -> list[tuple[Path, _Header]]:
    inner, files = _entries(folder)
    if inner:
        raise DataError(
            f"{folder}: the class folder has a subfolder '{inner[0].name}'; "
            f"class folders hold images only, so move its images up"
        )
    headers = [(file, _header(file, skip_non_images)) for file in files]
    return [(file, header) for file, header in headers if header is not None]


def _opened(file: Path, use: Callable[[Image.Image], _T]) -> _T:
    try:
        with warnings.catch_warnings():
            # Pillow warns from its limit on and raises from twice that on; here the limit is the
            # limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return use(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(
            f"{file}: more than {Image.MAX_IMAGE_PIXELS} pixels, Pillow's limit against "
            f"decompression bombs; make the image smaller"
        ) from error
    except UnidentifiedImageError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{file}: damaged image ({error}); replace or remove it") from error


def _header(file: Path, skip_non_images: bool) -> _Header | None:
    try:
        return _opened(file, lambda image: _describe(file, image))
    except UnidentifiedImageError:
        if skip_non_images:
            return None
        raise DataError(
            f"{file}: not an image; remove it, or skip such files with --skip-non-images"
        ) from None


def _describe(file: Path, image: Image.Image) -> _Header:
    if image.mode.split(";")[0] in _DEEP:
        raise DataError(
            f"{file}: pixels of more than 8 bits (mode {image.mode}); convert the images to 8 "
            f"bits, or import them as float arrays in an .npz file"
        )
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


def _decode(file: Path, size: int | None, gray: bool) -> np.ndarray:
    return _opened(file, lambda image: fit(ImageOps.exif_transpose(image), size, gray))
