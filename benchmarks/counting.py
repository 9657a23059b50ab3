"""Floating-point operations of a program's matrix products, counted in its jaxpr: loops as often as they run.

XLA's own count has the body of a loop once, whatever its length, and nothing for a kernel of ours.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import equinox as eqx
from attention_problem import PRODUCTS
from jax.interpreters import partial_eval as pe

ATTENTION = {
    "attention_forward": PRODUCTS["forward"],
    "attention_dual": PRODUCTS["fused"],
    "attention_tangent": PRODUCTS["fused"],  # it is computed by the kernel of both
    "attention_backward": PRODUCTS["backward"],
}
"""Operations of each primitive per query, key and feature."""


def flops(function: Callable[..., Any], *args: Any) -> float:
    """Operations of one call, two for each multiplication of a matrix product or a convolution.

    What a program computes again (rematerialization) counts again, and what nobody uses does not
    count. Raises `ValueError` for a product in a `while` loop: nobody knows how often it runs.
    """
    closed = eqx.filter_make_jaxpr(function)(*args)[0]
    used = [True] * len(closed.jaxpr.outvars)
    program, _ = pe.dce_jaxpr(closed.jaxpr, used, instantiate=True)
    return _of(program)


def _of(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = [_of(j) for j in _inner(eqn.params)]
        name = eqn.primitive.name
        if name == "scan":
            total += eqn.params["length"] * sum(inner)
        elif name == "cond":
            total += max(inner)
        elif name == "while" and any(inner):
            raise ValueError("a matrix product in a while loop cannot be counted")
        else:
            total += sum(inner) + _one(eqn)
    return total


def _one(eqn: Any) -> float:
    name, shapes = eqn.primitive.name, [v.aval.shape for v in eqn.invars]
    if name in ATTENTION:
        (b, n, h, d), m = shapes[0], shapes[1][1]
        half = 0.5 if eqn.params["call"].spec.causal else 1.0
        return ATTENTION[name] * half * b * n * m * h * d
    if name == "attention_derivative":
        raise ValueError("a second derivative of attention cannot be counted")
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * prod(shapes[0][i] for i in contracted) * prod(eqn.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        # Each output value is a sum over the window and the input channels of its group, less the
        # zeros that the gradient of a strided convolution has between its inputs.
        window = prod(shapes[1]) / shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]]
        window /= prod(eqn.params["lhs_dilation"])
        return 2.0 * window * prod(eqn.outvars[0].aval.shape)
    return 0.0


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner
