"""What an importer hands over: a description, and an iterator of bounded blocks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, Shaped

from scmkit.data.classes import listed
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
    - `origins`: what each split was taken from, in words.
    - `remarks`: what else a user would want to know before it is imported, such as what is not used.
    - `licences`: whose the samples are and under which licence, as far as it is known.
    """

    shape: tuple[int, ...]
    dtype: StoredDtype
    num_classes: int
    class_names: tuple[str, ...]
    sizes: dict[Split, int]
    read: Callable[[Split], Iterator[Block]]
    origins: dict[Split, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()

    def understood(self, drawn: int) -> Iterator[str]:
        """Lines that say what was found, where `drawn` samples become the test split if there is none."""
        kind = "images" if len(self.shape) == 3 else "vectors"
        shape = "x".join(map(str, self.shape))
        train = self.sizes["train"] - (0 if "test" in self.sizes else drawn)
        origin = self.origins.get("train", "")
        yield f"train    {train} {kind} of shape {shape}{origin and f', {origin}'}"
        if "test" in self.sizes:
            origin = self.origins.get("test", "")
            yield f"test     {self.sizes['test']}{origin and f', {origin}'}"
        else:
            yield f"test     {drawn}, drawn at random from the same" if drawn else "test     none"
        classes = f"{self.num_classes}: {listed(self.num_classes, self.class_names)}"
        yield f"classes  {classes if self.num_classes else 'none'}"
        yield from self.remarks


def rows_per_block(shape: tuple[int, ...], itemsize: int) -> int:
    """How many samples are read at a time."""
    return max(1, _BLOCK_BYTES // (math.prod(shape) * itemsize))
