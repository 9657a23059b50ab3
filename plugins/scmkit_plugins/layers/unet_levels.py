"""The blocks of a U-Net with its levels, as Score SDE, EDM and EDM2 build it, in the order of execution."""

from dataclasses import dataclass
from typing import Literal

Resample = Literal["keep", "down", "up"]
"""What a block does to the size of its image."""


@dataclass(frozen=True)
class Place:
    """A block of a U-Net: its name, image height and channels, and what it does beside convolving."""

    name: str
    side: int
    in_: int
    out: int
    resample: Resample = "keep"
    attends: bool = False


@dataclass(frozen=True)
class Structure:
    """The levels of a U-Net from the finest on: image heights, channels, and those with attention."""

    sides: tuple[int, ...]
    widths: tuple[int, ...]
    blocks: int
    attended: tuple[int, ...]

    def encoder(self, stem: int) -> list[Place]:
        """The encoder's blocks in the order of execution, after a first convolution to `stem` channels."""
        places, width = [], stem
        for level, (side, out) in enumerate(zip(self.sides, self.widths, strict=True)):
            name = f"enc.{side}x{side}"
            if level:
                places.append(Place(f"{name}_down", side, width, width, "down"))
            for i in range(self.blocks):
                attends = side in self.attended
                places.append(Place(f"{name}_block{i}", side, width, out, attends=attends))
                width = out
        return places

    def decoder(self, stem: int, *, last_attends: bool) -> list[Place]:
        """The decoder's blocks; `last_attends` where of a level's blocks only the last has attention."""
        skips = [stem, *(place.out for place in self.encoder(stem))]
        places, width = [], self.widths[-1]
        for level, (side, out) in reversed(
            list(enumerate(zip(self.sides, self.widths, strict=True)))
        ):
            name = f"dec.{side}x{side}"
            if level == len(self.sides) - 1:
                places.append(Place(f"{name}_in0", side, width, width, attends=True))
                places.append(Place(f"{name}_in1", side, width, width))
            else:
                places.append(Place(f"{name}_up", side, width, width, "up"))
            for i in range(self.blocks + 1):
                attends = side in self.attended and (i == self.blocks or not last_attends)
                in_ = width + skips.pop()
                places.append(Place(f"{name}_block{i}", side, in_, out, attends=attends))
                width = out
        return places
