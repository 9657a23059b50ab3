"""Attention as functions that JAX can differentiate, to define what comes after the first derivative.

Each takes the mask, if there is one, apart from what it is differentiated in. They are hashable, so
that they can be a primitive's parameter.
"""

from dataclasses import dataclass
from typing import Any

import jax

from scmkit_attention import dense
from scmkit_attention.call import Arrays, Call


@dataclass(frozen=True)
class Output:
    """The output as a function of (q, k, v[, bias]) for a mask, in a form JAX can differentiate."""

    call: Call

    @property
    def inputs(self) -> int:
        return 3 + self.call.biased

    def types(self, x: Arrays) -> list[Any]:
        return [x[0]]

    def __call__(self, mask: Arrays, x: Arrays) -> tuple[Any, ...]:
        q, k, v, *bias = x
        return (dense.forward(self.call.pack([q, k, v, *mask, *bias]), self.call.spec)[0],)


@dataclass(frozen=True)
class Derivative:
    """The jvp of another function, as a function of its inputs and their tangents."""

    function: "Function"

    @property
    def call(self) -> Call:
        return self.function.call

    @property
    def inputs(self) -> int:
        return 2 * self.function.inputs

    def types(self, x: Arrays) -> list[Any]:
        return self.function.types(x)

    def __call__(self, mask: Arrays, x: Arrays) -> tuple[Any, ...]:
        n = self.function.inputs
        return jax.jvp(lambda *p: self.function(mask, p), tuple(x[:n]), tuple(x[n:]))[1]


@dataclass(frozen=True)
class Backward:
    """The cotangents of (q, k, v[, bias]) as a function of them and the output's cotangent."""

    call: Call

    @property
    def inputs(self) -> int:
        return Output(self.call).inputs + 1

    def types(self, x: Arrays) -> list[Any]:
        return list(x[: Output(self.call).inputs])

    def __call__(self, mask: Arrays, x: Arrays) -> tuple[Any, ...]:
        *p, do = x
        return jax.vjp(lambda *p: Output(self.call)(mask, p), *p)[1]((do,))


Function = Output | Derivative | Backward


def tangent_of(call: Call) -> Derivative:
    """The output's tangent as a function of the operands and their tangents."""
    return Derivative(Output(call))
