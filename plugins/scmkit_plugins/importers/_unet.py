"""What the state dicts of NVIDIA's U-Nets have in common."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from scmkit.weights import listed

Given = tuple[str, np.ndarray]
"""A parameter's name in the file, and its array."""

Sizes = tuple[int | None, ...]
"""A shape, with None for a side that nothing else in the file tells."""

NAME = re.compile(r"(enc|dec)\.(\d{1,5})x\2_([^.]+)\.(.+)")
BLOCK = re.compile(r"block(\d{1,2})")


@dataclass(frozen=True)
class Place:
    """A block of a U-Net: its name in the file, its channels, and what it does beside convolving."""

    name: str
    in_: int
    out: int
    resamples: bool
    attends: bool


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
                places.append(Place(f"{name}_down", width, width, True, False))
            for i in range(self.blocks):
                attends = side in self.attended
                places.append(Place(f"{name}_block{i}", width, out, False, attends))
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
                places.append(Place(f"{name}_in0", width, width, False, True))
                places.append(Place(f"{name}_in1", width, width, False, False))
            else:
                places.append(Place(f"{name}_up", width, width, True, False))
            for i in range(self.blocks + 1):
                attends = side in self.attended and (i == self.blocks or not last_attends)
                places.append(Place(f"{name}_block{i}", width + skips.pop(), out, False, attends))
                width = out
        return places


def structure(given: Mapping[str, Given], conv: str, attention: tuple[str, ...]) -> Structure:
    """The levels that names of parameters speak of, whichever of them are missing.

    `conv` is the name of a block's second convolution, `attention` what those of its attention begin with.
    Raises `ValueError` for blocks of another network.
    """
    found = [(m, source) for name, (source, _) in given.items() if (m := NAME.fullmatch(name))]
    sides = {int(m[2]) for m, _ in found}
    if not any(m[4] == f"{conv}.weight" for m, _ in found):
        some = ", ".join(source for source, _ in list(given.values())[:3]) or "nothing"
        raise ValueError(f"its first parameters are {some}")
    chain = [max(sides) >> level for level in range(18) if max(sides) >> level >= min(sides)]
    blocks = [(m, int(b[1])) for m, _ in found if (b := BLOCK.fullmatch(m[3]))]
    count = max((i + (m[1] == "enc") for m, i in blocks), default=0)
    if odd := next((source for m, source in found if int(m[2]) not in chain), None):
        raise ValueError(f"'{odd}' is at a resolution of its own")
    if not count:
        raise ValueError("it has no blocks in its encoder (num_blocks=0), which is not supported")
    widths = []
    for side in chain:
        names = [f"{part}.{side}x{side}_block{i}.{conv}.weight" for part in ("enc", "dec")
                 for i in range(count + 1)]  # fmt: skip
        shape = next((given[name][1].shape for name in names if name in given), None)
        if shape is None:
            raise ValueError(f"it lacks '{names[0]}': the file is incomplete")
        widths.append(shape[0] if shape else 0)
    attended = {int(m[2]) for m, _ in blocks if m[4].startswith(attention)}
    return Structure(tuple(chain), tuple(widths), count, tuple(s for s in chain if s in attended))


def side_of(given: Mapping[str, Given], name: str, axis: int) -> int | None:
    """The size of a parameter along an axis; None where it is missing."""
    shape = given[name][1].shape if name in given else ()
    return shape[axis] if axis < len(shape) else None


def check(given: Mapping[str, Given], wanted: Mapping[str, Sizes], prefix: str) -> None:
    """Raises `ValueError` naming the parameters that are missing, or else the first of another shape.

    `prefix` is what the file has before every name.
    """
    if missing := [prefix + name for name in wanted if name not in given]:
        raise ValueError(
            f"it lacks {len(missing)} of its {len(wanted)} parameters ({listed(missing)}): the file is "
            "incomplete, fetch it again"
        )
    for name, sizes in wanted.items():
        source, array = given[name]
        fits = len(sizes) == array.ndim and all(
            size in (None, there) for size, there in zip(sizes, array.shape, strict=True)
        )
        if not fits:
            shape = "x".join("?" if n is None else str(n) for n in sizes) or "()"
            raise ValueError(
                f"'{source}' has the shape {'x'.join(map(str, array.shape)) or '()'}, and in this network "
                f"it would be {shape}"
            )


def surplus(
    given: Mapping[str, Given], wanted: Iterable[str], unused: str, network: str
) -> tuple[str, ...]:
    """The parameters that are not wanted, by their names in the file, less those that match `unused`.

    Raises `ValueError` for one whose name matches `network`: what it does there is not known.
    """
    known = set(wanted)
    left = {n: source for n, (source, _) in given.items() if n not in known}
    left = {n: source for n, source in left.items() if not re.fullmatch(unused, n)}
    if foreign := [source for n, source in left.items() if re.match(network, n)]:
        raise ValueError(f"it has {listed(foreign)}, which the published network has not")
    return tuple(left.values())


def without(prefix: str, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Given], str]:
    """Parameters by their names less a prefix, and the prefix if any had it."""
    given = {name.removeprefix(prefix): (name, array) for name, array in arrays.items()}
    return given, prefix if any(name.startswith(prefix) for name in arrays) else ""


def kernel(given: Given) -> Given:
    """From `out in h w` to `h w in out`."""
    return given[0], given[1].transpose(2, 3, 1, 0)


def matrix(given: Given) -> Given:
    """From `out in` to `in out`."""
    return given[0], given[1].T
