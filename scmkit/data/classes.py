"""Classes of data: their order, the labels that stand for them, and which one a user means."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from scmkit.errors import UsageError, did_you_mean
from scmkit.interfaces import Split

LISTED = 12
"""So many classes are named in one line."""


def natural(name: str) -> tuple[list[str | int], str]:
    """A key to sort names by as people do: numbers within them by value, so that 2 comes before 10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def numbered(
    labels: Mapping[Split, Int[np.ndarray, " _"]],
) -> tuple[dict[Split, Int[np.ndarray, " _"]], int, tuple[str, ...]]:
    """Labels as class indices, the number of classes, and their names.

    There are as many classes as different labels, in the order of their values; a class is called by its
    label. Labels that are 0, 1, 2, ... without a gap stay as they are, and their classes have no names.
    """
    if not labels:
        return {}, 0, ()
    values = np.unique(np.concatenate(list(labels.values())))
    indices: dict[Split, np.ndarray] = {
        split: np.searchsorted(values, given).astype(np.int32) for split, given in labels.items()
    }
    gapless = bool(values[0] == 0 and values[-1] == len(values) - 1)
    return indices, len(values), () if gapless else tuple(map(str, values.tolist()))


def class_index(asked: str, num_classes: int, names: Sequence[str]) -> int:
    """The index of the class that is called `asked`, or of that number where no name is one.

    Names that are numbers (labels that do not count from 0, folders 1 to 12) are all that a number can
    mean; zeros in front of it do not matter. Raises `UsageError` for a class that is not there.
    """
    if not num_classes:
        raise UsageError(f"class {asked}: this data has no classes")
    if asked in names:
        return names.index(asked)
    if _is_number(asked):
        if not any(map(_is_number, names)):
            if int(asked) < num_classes:
                return int(asked)
        else:
            same = [i for i, n in enumerate(names) if _is_number(n) and int(n) == int(asked)]
            if len(same) == 1:
                return same[0]
    raise UsageError(
        f"class {asked}: this data has classes {listed(num_classes, names)}"
        f"{did_you_mean(asked, names)}"
    )


def class_name(index: int, names: Sequence[str]) -> str:
    """What to call a class: its name, or its number where it has none."""
    return names[index] if names else str(index)


def listed(num_classes: int, names: Sequence[str]) -> str:
    """The classes in a few words: `0 to 9`, `'ant', 'bee'`, or the first and the last of many."""
    if not names:
        return f"0 to {num_classes - 1}" if num_classes > 1 else "0"
    quoted = [f"'{name}'" for name in names]
    if len(quoted) > LISTED:
        quoted = [*quoted[: LISTED - 2], "...", quoted[-1]]
    return ", ".join(quoted)


def _is_number(text: str) -> bool:
    # Nineteen digits hold any label, and Python refuses to read thousands of them.
    return re.fullmatch(r"[0-9]{1,19}", text) is not None
