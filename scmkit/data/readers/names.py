"""What the names of folders and arrays say: which split is meant, and samples or labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scmkit.errors import DataError
from scmkit.interfaces import Split

KEYS = "x_train/y_train/x_test/y_test, images/labels, x/y or arr_0/arr_1"
"""Names of arrays to recommend."""

UNSURE = {"arr_1", "class", "classes"}
"""Names that are of labels only where the array looks like it."""

Part = Literal["train", "test", "val"]
Role = Literal["samples", "labels"]

_SPELLINGS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
}
_PARTS: dict[str, Part] = {name: part for part, names in _SPELLINGS.items() for name in names}
_SAMPLES = {"x", "image", "images", "img", "imgs", "data", "sample", "samples"}
_LABELS = {"y", "label", "labels", "target", "targets", "class", "classes"}
_SILENT = {"set", "split", "dataset"}


def split_of(folder: str) -> Part | None:
    """The split a folder is called after, in any case (`Test`, `val2017`, `training_set`), or None."""
    words = [
        w for w in _words(folder) if w not in _SILENT | _SAMPLES and not re.match(r"\d{4}$", w)
    ]
    return _PARTS.get(words[0]) if len(words) == 1 else None


def meaning_of(array: str) -> tuple[Part | None, Role] | None:
    """The split and the role of an array by its name; None where it is called after neither.

    `x_train`, `test_images` and `Y_val` name both, `images` and `y` the role, and `train` alone means
    samples. `numpy.savez(file, x, y)` calls its arrays `arr_0` and `arr_1`.
    """
    if array in ("arr_0", "arr_1"):
        return None, "samples" if array == "arr_0" else "labels"
    words = [w for w in _words(array) if w not in _SILENT]
    parts: list[Part] = [_PARTS[w] for w in words if w in _PARTS]
    roles: list[Role] = [
        "samples" if w in _SAMPLES else "labels" for w in words if w in _SAMPLES | _LABELS
    ]
    if len(parts) > 1 or len(roles) > 1 or not words or len(parts) + len(roles) < len(words):
        return None
    return (parts[0] if parts else None), (roles[0] if roles else "samples")


@dataclass(frozen=True)
class Chosen:
    """The arrays of samples and of labels by split, and why each of the others is not used."""

    samples: dict[Split, str]
    labels: dict[Split, str]
    unused: dict[str, str]


def choose_arrays(path: Path, names: Sequence[str], with_labels: bool) -> Chosen:
    """Which of the arrays of a file are meant, by their names.

    Arrays that name no split are of the train split, and a validation split is the test split where there
    is no other. Raises `DataError` where there are no samples, two sets of them or of labels for one
    split, or labels for one split alone.
    """
    found: dict[tuple[Role, Part], list[str]] = {}
    unused: dict[str, str] = {}
    for name in sorted(names):
        meaning = meaning_of(name)
        if meaning is None:
            unused[name] = "not called after samples or labels"
        else:
            found.setdefault((meaning[1], meaning[0] or "train"), []).append(name)
    for several in found.values():
        # What may be labels is not in doubt where others surely are.
        sure = [name for name in several if name not in UNSURE]
        if sure and len(sure) < len(several):
            unused |= {name: f"'{sure[0]}' is" for name in several if name in UNSURE}
            several[:] = sure
    for (role, part), several in found.items():
        if len(several) > 1 and (role == "samples" or with_labels):
            both = f"'{several[0]}' and '{several[1]}'"
            raise DataError(
                f"{path}: more than one set of {role} for the {part} split ({both}); keep one of them, and "
                f"use the keys {KEYS}"
            )
    if ("samples", "train") not in found:
        held = ", ".join(f"'{name}'" for name in sorted(names)) or "no arrays"
        raise DataError(
            f"{path}: no samples by a known name (it holds {held}); use the keys {KEYS}"
        )
    parts: dict[Split, Part] = {"train": "train"}
    tests: list[Part] = [part for part in ("test", "val") if ("samples", part) in found]
    if tests:
        parts["test"] = tests[0]
    samples: dict[Split, str] = {split: found["samples", p][0] for split, p in parts.items()}
    labels: dict[Split, str] = {
        split: found["labels", p][0] for split, p in parts.items() if ("labels", p) in found
    }
    for (role, part), several in found.items():
        if role == "labels" and not with_labels:
            unused |= dict.fromkeys(several, "labels were not asked for")
        elif part not in parts.values():
            two = part == "val" and len(tests) > 1
            reason = "a store has two splits" if two else f"there are no samples of a {part} split"
            unused |= dict.fromkeys(several, reason)
    if not with_labels:
        return Chosen(samples, {}, unused)
    for split in parts:
        if labels and split not in labels:
            other = next(iter(labels.values()))
            raise DataError(
                f"{path}: '{samples[split]}' has no labels, but there is '{other}'; add labels for it or "
                f"remove '{other}', or import without labels: --no-labels"
            )
    return Chosen(samples, labels, unused)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", name.lower())
