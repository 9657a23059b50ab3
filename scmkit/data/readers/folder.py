"""A folder of images, with one subfolder for each class or none."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from scmkit.data.readers.decoding import (
    MAX_PIXELS,
    NO_IMAGE,
    BadImage,
    Header,
    decoded,
    described,
    undecodable,
)
from scmkit.data.readers.source import Block, Source, rows_per_block
from scmkit.data.readers.tree import Tree, entries, open_tree
from scmkit.errors import BadFilesError, DataError
from scmkit.interfaces import Split

MAX_IMAGES = 20_000_000
"""Images of one folder, by default: more than ImageNet-21k has."""

Skipped = Callable[[Path, str], None]
"""Told of each file that was passed over, and why."""


def open_folder(
    path: Path,
    *,
    size: int | None = None,
    grayscale: bool | None = None,
    labels: bool | None = None,
    skip_non_images: bool = False,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
    max_images: int = MAX_IMAGES,
    skipped: Skipped = lambda file, reason: None,
) -> Source:
    """Finds the images of a folder and reads their headers.

    Subfolders at the top that are called after splits (`train`, `Test`, `validation`) are splits; a
    validation split is the test split where there is no other. Subfolders below are classes, numbered in
    the natural order of their names, or pieces of one set (see `open_tree` for these and for `labels`).
    Images are RGB unless all of them (or `grayscale`) say otherwise. Hidden files are passed over; of an
    animation the first frame is taken. Raises `BadFilesError`, which names every one, for files that are
    no images, damaged or cut, deeper than 8 bits or of more than `max_pixels`; `skip_bad` passes over
    them and tells `skipped` (each image is then decoded twice), `skip_non_images` over those that are no
    images. Raises `DataError` for images of different sizes (unless `size` is given) and for more than
    `max_images` of them.
    """
    tree = open_tree(path, labels)
    found: dict[Split, list[tuple[Path, int]]] = {}
    headers: list[tuple[Path, Header]] = []
    bad: list[tuple[Path, str]] = []
    empty: list[Path] = []

    def admitted(files: Iterable[Path]) -> Iterator[tuple[Path, Header]]:
        for file in files:
            try:
                yield file, described(file, max_pixels, decode=skip_bad)
                continue
            except BadImage as error:
                reason = str(error)
            if skip_bad or (skip_non_images and reason == NO_IMAGE):
                skipped(file, reason)
            else:
                bad.append((file, reason))

    for stray in tree.strays:
        # With --skip-non-images it may lie there, if it is none.
        if (skip_bad or skip_non_images) and not list(admitted([stray])) and not bad:
            continue
        _refuse_stray(tree, stray)
    for split, folders in tree.folders.items():
        found[split] = []
        for folder, label in folders:
            images = list(admitted(entries(folder)[1]))
            headers += images
            found[split] += [(file, label) for file, _ in images]
            if len(headers) > max_images:
                raise DataError(
                    f"{path}: more than {max_images} images; raise --max-images if that is meant"
                )
            if not images and tree.names:
                empty.append(folder)
        if not found[split]:
            empty.append(tree.roots[split])
    if bad:
        # One report of everything: what is only found by decoding belongs in it too.
        raise BadFilesError(path, bad + undecodable((file for file, _ in headers), max_pixels))
    if empty:
        raise DataError(
            f"{empty[0]}: no images; give a folder of images or of class folders, none of them empty"
        )
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
            pixels = []
            for i, (file, _) in enumerate(block):
                try:
                    pixels.append(decoded(file, size, gray, max_pixels))
                except BadImage as error:
                    rest = [f for f, _ in files[start + i + 1 :]]
                    rest += [f for other in found if other != split for f, _ in found[other]]
                    bad = [(file, str(error)), *undecodable(rest, max_pixels)]
                    raise BadFilesError(path, bad) from None
            numbers = np.array([label for _, label in block], np.int32)
            yield np.stack(pixels), numbers if tree.names else None

    return Source(
        shape=shape,
        dtype="uint8",
        num_classes=len(tree.names),
        class_names=tree.names,
        sizes={split: len(files) for split, files in found.items()},
        read=read,
        origins={
            split: f"folder '{root.name}'" for split, root in tree.roots.items() if root != path
        },
        remarks=tree.remarks,
    )


def _refuse_stray(tree: Tree, stray: Path) -> None:
    if stray.parent in tree.roots.values():
        raise DataError(
            f"{stray.parent}: '{stray.name}' lies beside class folders such as '{tree.names[0]}'; put every "
            f"image into a class folder, or all of them into one folder, or import without labels: "
            f"--no-labels (--skip-non-images passes over files that are no images)"
        )
    names = " and ".join(f"'{root.name}'" for root in tree.roots.values())
    raise DataError(
        f"{stray.parent}: '{stray.name}' lies beside the splits {names}; move it away, or move it into one "
        f"of them (--skip-non-images passes over files that are no images)"
    )


def _check_sizes(headers: Sequence[tuple[Path, Header]]) -> None:
    file, first = headers[0]
    for other, header in headers:
        if (header.width, header.height) != (first.width, first.height):
            raise DataError(
                f"images differ in size: {file} is {first.width}x{first.height}, {other} is "
                f"{header.width}x{header.height}; crop and resize all of them with --size N"
            )
