"""A folder of images: which of its subfolders are splits, which are classes, and which are neither."""

import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scmkit.data.classes import natural
from scmkit.data.readers.names import Part, split_of
from scmkit.errors import DataError
from scmkit.interfaces import Split

_CLUTTER = {"Thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Tree:
    """Where images are to be taken from.

    **Arguments:**

    - `roots`: the folder of each split.
    - `names`: the classes in their order; none where there are no labels.
    - `folders`: of each split, the folders with the files directly in them, and their class (-1: none).
    - `strays`: files that lie where only folders should, to be told of.
    - `remarks`: what a user would want to know about this reading of the folder.
    """

    roots: Mapping[Split, Path]
    names: tuple[str, ...]
    folders: Mapping[Split, Sequence[tuple[Path, int]]]
    strays: tuple[Path, ...]
    remarks: tuple[str, ...]


def open_tree(path: Path, labels: bool | None = None) -> Tree:
    """Recognises splits and classes by the names of folders.

    `labels` True takes the subfolders for classes, False takes all images whatever folder they are in, and
    None looks: folders of numbers that only cut one long row of files into pieces (`00000`, `01000`) are no
    classes. Raises `DataError` where the folder cannot be read in one way only.
    """
    roots, strays, remarks = _splits(path)
    top, _ = entries(roots["train"])
    whole = not top or _are_pieces(top)
    if labels is None and top and whole:
        remarks.append(
            "labels   none: the folders are pieces of one set (--labels takes them for classes)"
        )
    if labels is False or (labels is None and whole):
        if labels is None and not top:
            _refuse_class_folders(roots)
        folders = {split: [(f, -1) for f in _all_below(root)] for split, root in roots.items()}
        return Tree(roots, (), folders, tuple(strays), tuple(remarks))
    if not top:
        raise DataError(f"{roots['train']}: no class folders; leave --labels out")
    top = sorted(top, key=lambda folder: natural(folder.name))
    names = tuple(folder.name for folder in top)
    number = {name: i for i, name in enumerate(names)}
    folders: dict[Split, list[tuple[Path, int]]] = {}
    for split, root in roots.items():
        inner, loose = entries(root)
        _check_classes(root, roots["train"], number, inner)
        strays += loose
        order = sorted(inner, key=lambda folder: number[folder.name])
        folders[split] = [(folder, number[folder.name]) for folder in order]
        for folder in order:
            _check_class_folder(folder)
    return Tree(roots, names, folders, tuple(strays), tuple(remarks))


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The subfolders and the files of a folder, sorted by name; hidden ones are passed over."""
    try:
        with os.scandir(folder) as found:
            seen = sorted((e for e in found if e.name[0] != "."), key=lambda e: e.name)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    parts: tuple[list[Path], list[Path]] = [], []
    for entry in seen:
        if entry.name not in _CLUTTER:
            parts[not entry.is_dir()].append(folder / entry.name)
    return parts


def _splits(path: Path) -> tuple[dict[Split, Path], list[Path], list[str]]:
    """The folder of each split, files beside them, and what to say of it."""
    folders, files = entries(path)
    named: dict[Part, list[Path]] = {}
    others = []
    for folder in folders:
        part = split_of(folder.name)
        named.setdefault(part, []).append(folder) if part else others.append(folder)
    if "train" not in named:
        if named and not others and not files:
            first = next(iter(named.values()))[0]
            raise DataError(
                f"{path}: '{first.name}' is the name of a split, and there is no folder 'train' beside "
                f"it; import '{first}' itself, or call the training images' folder 'train'"
            )
        return {"train": path}, [], []
    if len(named) == 1 and (others or files or len(named["train"]) > 1):
        # A class may be called so, as one of CIFAR-100 is.
        return {"train": path}, [], []
    for part, several in named.items():
        if len(several) > 1:
            raise DataError(
                f"{path}: '{several[0].name}' and '{several[1].name}' are both names of the {part} split; "
                f"keep one of them there"
            )
    if others:
        split_names = " and ".join(f"'{several[0].name}'" for several in named.values())
        raise DataError(
            f"{path}: '{others[0].name}' lies beside the splits {split_names}; "
            f"move it away, or move it into one of them"
        )
    roots: dict[Split, Path] = {"train": named["train"][0]}
    remarks = []
    test = named.get("test") or named.get("val")
    if test:
        roots["test"] = test[0]
    if "test" in named and "val" in named:
        unused = named["val"][0]
        remarks.append(
            f"unused   '{unused.name}' with {_count(unused)} files: a store has two splits (to take it for "
            f"the test split, move '{named['test'][0].name}' away)"
        )
    return roots, files, remarks


def _count(folder: Path) -> int:
    return sum(len(entries(inner)[1]) for inner in _all_below(folder))


def _all_below(root: Path) -> Iterator[Path]:
    """A folder and all folders in it, each once, also where links lead back."""
    seen: set[Path] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        real = folder.resolve()
        if real not in seen:
            seen.add(real)
            yield folder
            waiting += reversed(entries(folder)[0])


def _are_pieces(folders: Sequence[Path]) -> bool:
    """Whether folders only cut one long row of files into pieces, and are no classes.

    They are called by numbers of one width, four digits or more. Those of FFHQ are multiples of a thousand;
    those of NVIDIA's and img2dataset's begin the numbers of the files in them (`00001/img00001000.png`).
    """
    names = [folder.name for folder in folders]
    if not all(re.fullmatch("[0-9]{4,}", name) for name in names) or len({*map(len, names)}) > 1:
        return False
    if len(names) > 1 and all(int(name) % 100 == 0 for name in names):
        return True
    counted = 0
    for folder in folders:
        for file in entries(folder)[1]:
            runs = re.findall("[0-9]+", file.stem)
            counted += 1
            if (
                not runs
                or len(runs[-1]) <= len(folder.name)
                or not runs[-1].startswith(folder.name)
            ):
                return False
    return counted > 0


def _refuse_class_folders(roots: Mapping[Split, Path]) -> None:
    for root in roots.values():
        folders, _ = entries(root)
        if folders:
            raise DataError(
                f"{root}: has class folders such as '{folders[0].name}', and '{roots['train']}' has none; "
                f"sort those images into classes, too, or import without labels: --no-labels"
            )


def _check_classes(root: Path, train: Path, names: Container[str], folders: Sequence[Path]) -> None:
    unknown = [folder.name for folder in folders if folder.name not in names]
    if unknown:
        raise DataError(
            f"{root}: the class folder '{unknown[0]}' is in {root.name} but not in {train.name}; add it to "
            f"{train.name} or remove it, or import without labels: --no-labels"
        )
    if not folders:
        raise DataError(
            f"{root}: {train.name} has class folders and {root.name} has none; sort its images into "
            f"classes, move it away, or import without labels: --no-labels"
        )


def _check_class_folder(folder: Path) -> None:
    inner, _ = entries(folder)
    if inner:
        raise DataError(
            f"{folder}: a class folder holds images only, and this has a subfolder '{inner[0].name}'; if "
            f"its subfolders are the classes (or splits), import '{folder}' itself; if '{folder.name}' is "
            f"one class, move all its images up; --no-labels takes every image, and no classes"
        )
