"""What a program computes, counted in its jaxpr after dead code is removed."""

from collections import Counter
from collections.abc import Iterator

import jax
import numpy as np
from jax.interpreters import partial_eval as pe


def equations(f, *args) -> Iterator[tuple[int, object]]:
    """Every equation of `f`'s program, and how often it runs; a `cond` counts every branch."""
    closed = jax.make_jaxpr(f)(*args)
    program, _ = pe.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    yield from _inside(program, 1)


def multiplications(f, *args) -> int:
    """Multiplications in the matrix products of `f`'s program."""
    total = 0
    for times, eqn in equations(f, *args):
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = np.prod([eqn.invars[0].aval.shape[i] for i in contracted], dtype=int)
            total += times * int(depth) * int(np.prod(eqn.outvars[0].aval.shape, dtype=int))
    return total


def attention_calls(f, *args) -> dict[str, int]:
    """How often each primitive of attention runs: `{"dual": 2, "backward": 2}`."""
    found = Counter()
    for times, eqn in equations(f, *args):
        name = eqn.primitive.name.removeprefix("attention_")
        if name != eqn.primitive.name:
            found[name] += times
    return dict(found)


def _inside(program, times):
    for eqn in program.eqns:
        yield times, eqn
        inner_times = times * eqn.params["length"] if eqn.primitive.name == "scan" else times
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _inside(inner, inner_times)
