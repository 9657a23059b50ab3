"""What the state dicts of NVIDIA's U-Nets have in common."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from scmkit.weights import listed
from scmkit_plugins.layers.unet_levels import Structure

Given = tuple[str, np.ndarray]
"""A parameter's name in the file, and its array."""

Sizes = tuple[int | None, ...]
"""A shape, with None for a side that nothing else in the file tells."""

NAME = re.compile(r"(enc|dec)\.(\d{1,5})x\2_([^.]+)\.(.+)")
BLOCK = re.compile(r"block(\d{1,2})")


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
