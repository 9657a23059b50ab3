"""What a primitive knows of a call when it is traced, and how its arrays lie in a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scmkit_attention.problem import Operands, Spec

Arrays = Sequence[Any]
"""Arrays, tracers, types or tangents."""


@dataclass(frozen=True)
class Call:
    """A primitive's parameter: the call's constants and which optional operands it has."""

    spec: Spec
    masked: bool
    biased: bool

    @property
    def operands(self) -> int:
        return 3 + self.masked + self.biased

    @property
    def differentiable(self) -> tuple[int, ...]:
        """Positions of the operands that have tangents: q, k, v and the bias."""
        return (0, 1, 2, *((3 + self.masked,) if self.biased else ()))

    def pack(self, args: Arrays) -> Operands:
        q, k, v, *rest = args
        mask = rest.pop(0) if self.masked else None
        return Operands(q, k, v, mask, rest.pop(0) if self.biased else None)

    def unpack(self, x: Operands) -> list[Any]:
        return [a for a in x if a is not None]

    def select(self, args: Arrays) -> list[Any]:
        return [args[i] for i in self.differentiable]
