"""What the state dicts of NVIDIA's U-Nets have in common."""

import re
from collections.abc import Iterable

import numpy as np

Given = tuple[str, np.ndarray]
"""A parameter's name in the file, and its array."""

FIRST = {"conv": 0, "down": 0, "up": 0, "in0": 0, "in1": 1}


def in_order(names: Iterable[str], part: str) -> list[str]:
    """The blocks of `part` ("enc" or "dec") in the order of execution, whatever that of the file.

    The encoder goes down the resolutions, the decoder up; a level begins with `conv`, `down`, `up` or
    `in0`, `in1`, then come its blocks `block0`, `block1`, ...
    """
    found = {name.split(".")[1] for name in names if name.startswith(f"{part}.")}

    def place(name: str) -> tuple[int, int, int]:
        match = re.fullmatch(r"(\d+)x\1_(?:block(\d+)|(\w+))", name)
        if match is None or (match[3] and match[3] not in FIRST and not match[3].startswith("aux")):
            raise ValueError(f"it has a block '{part}.{name}', which is of another network")
        side = int(match[1]) * (-1 if part == "enc" else 1)
        if match[2]:
            return side, 1, int(match[2])
        return (side, 0, FIRST[match[3]]) if match[3] in FIRST else (side, 2, 0)

    return sorted(found, key=place)


def kernel(given: Given) -> Given:
    """From `out in h w` to `h w in out`."""
    return given[0], given[1].transpose(2, 3, 1, 0)


def matrix(given: Given) -> Given:
    """From `out in` to `in out`."""
    return given[0], given[1].T
