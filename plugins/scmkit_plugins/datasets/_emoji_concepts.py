"""What emoji mean, from their code points: groups, and which are variants of one concept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_SIGNS = {"2640", "2642", "27a1"}
"""Woman, man, and facing right, which are added to an emoji."""
_MAN, _WOMAN, _PERSON = "1f468", "1f469", "1f9d1"
_JOINER, _PRESENTATION = "200d", "fe0f"


def normal(code: str) -> str:
    """Code points in one spelling: `23-20e3` and `0023_FE0F_20E3` are `0023-20e3`."""
    points = code.lower().replace("_", "-").split("-")
    return "-".join(point.zfill(4) for point in points if point not in ("", _PRESENTATION))


def concept(base: str) -> str:
    """A normal code less skin tone, gender and direction: man, woman and person facing right are one."""
    points = [p for p in base.split("-") if p not in _TONES | _SIGNS]
    joined: list[str] = []
    for point in (_PERSON if p in (_MAN, _WOMAN) else p for p in points):
        if point != _JOINER or (joined and joined[-1] != _JOINER):
            joined.append(point)
    while joined and joined[-1] == _JOINER:
        joined.pop()
    return "-".join(joined)


@dataclass(frozen=True)
class Catalogue:
    """Of each normal code its group, and the normal code that it is a skin tone of, or itself."""

    groups: Mapping[str, str]
    bases: Mapping[str, str]

    @staticmethod
    def read(entries: Any) -> "Catalogue":
        """From the value of `emoji.json`; raises `ValueError` where that is not what it should be."""
        groups: dict[str, str] = {}
        bases: dict[str, str] = {}
        try:
            for entry in entries:
                for code in _codes(entry):
                    groups[code], bases[code] = str(entry["category"]), normal(entry["unified"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it is not a list of emoji ({type(error).__name__})") from None
        return Catalogue(groups, bases)


def _codes(entry: Mapping[str, Any]) -> Iterator[str]:
    tones = entry.get("skin_variations", {}).values()
    for code in (entry["unified"], entry.get("non_qualified"), *(t["unified"] for t in tones)):
        if code:
            yield normal(code)


def held_out(
    concepts: Sequence[str], groups: Sequence[str], rng: np.random.Generator
) -> Bool[np.ndarray, " n"]:
    """Which images are for testing: in each group about a quarter, by whole concepts.

    `concepts` and `groups` are of each image; the group of a concept is that of its first image.
    """
    members: dict[str, list[int]] = {}
    for i, one in enumerate(concepts):
        members.setdefault(one, []).append(i)
    test = np.zeros(len(concepts), bool)
    for group in sorted(set(groups)):
        own = sorted(one for one, images in members.items() if groups[images[0]] == group)
        rng.shuffle(own)
        limit, taken = 0.25 * sum(g == group for g in groups), 0
        for one in own:
            # Half of it, so that a large concept is as often over the limit as below.
            if taken + len(members[one]) / 2 <= limit:
                test[members[one]] = True
                taken += len(members[one])
    return test
