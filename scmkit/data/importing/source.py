"""What an importer hands over: a description, and an iterator of bounded blocks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from scmkit.data.layout import StoredDtype
from scmkit.interfaces import Split

Block = tuple[Shaped[np.ndarray, "n *shape"], Int[np.ndarray, " n"] | None]

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Source:
    """Data found somewhere, checked, and not yet read.

    **Arguments:**

    - `shape`, `dtype`: of one sample as it will be stored (images `c h w`).
    - `num_classes`, `class_names`: 0 and none where there are no labels.
    - `sizes`: samples in each split; without `"test"`, one has to be split off.
    - `read`: `read(split)` iterates over the blocks of a split.
    """

    shape: tuple[int, ...]
    dtype: StoredDtype
    num_classes: int
    class_names: tuple[str, ...]
    sizes: dict[Split, int]
    read: Callable[[Split], Iterator[Block]]


def rows_per_block(shape: tuple[int, ...], itemsize: int) -> int:
    """How many samples are read at a time."""
    return max(1, _BLOCK_BYTES // (math.prod(shape) * itemsize))
