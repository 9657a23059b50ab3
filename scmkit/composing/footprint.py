"""What a model costs: parameters, operations and memory, from shapes alone; nothing is allocated."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from scmkit.composing.build import build_model
from scmkit.composing.recipe import Recipe
from scmkit.interfaces import AbstractNetwork, Conditioning, DataSpec


@dataclass(frozen=True)
class Footprint:
    """The costs of a model.

    **Attributes:**

    - `parameters`: the number of weights.
    - `flops`: floating-point operations of one forward pass on one sample; a multiplication and an
        addition are two.
    - `sample_bytes`: what the backward pass of a training step keeps for each sample.
    """

    parameters: int
    flops: float
    sample_bytes: int


def count_parameters(recipe: Recipe) -> int:
    """The number of weights of a recipe's model."""
    return _count(_skeleton(recipe))


def footprint(recipe: Recipe) -> Footprint:
    """The costs of a recipe's model, by `jax.eval_shape` and XLA's cost analysis of one program."""
    skeleton = _skeleton(recipe)
    arrays, static = eqx.partition(skeleton.network, _is_shape)
    dtype = jnp.dtype(recipe.train.precision)

    def forward(arrays: AbstractNetwork, x: Array, c: Array, labels: Array | None) -> Array:
        network = eqx.combine(arrays, static)
        cond = Conditioning(None if labels is None else labels)
        return jax.vmap(lambda x, c, cond: network(x, c, cond, key=None))(x, c, cond)

    kept = [_kept(forward, arrays, _inputs(recipe.data, n, dtype)) for n in (1, 2)]
    program = jax.make_jaxpr(forward)(arrays, *_inputs(recipe.data, 1, dtype))
    return Footprint(_count(skeleton), _flops(program), kept[1] - kept[0])


def products(program: Any) -> float:
    """The FLOPs of the matrix products and convolutions of a jaxpr, as they are written in it.

    Of `a[m, k] b[k, n]` there are `2 m k n`, of a convolution two for each output and weight of its window.
    The body of a scan counts as often as it runs; that of a loop of unknown length once, and of branches the
    dearest one. Exact and instant, where XLA's analysis would first lower the whole program.
    """
    total = 0.0
    for equation in program.eqns:
        kind, given = equation.primitive.name, equation.params
        if kind == "dot_general":
            (contracted, _), _ = given["dimension_numbers"]
            sides = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * prod(sides[axis] for axis in contracted)
        elif kind == "conv_general_dilated":
            sides = equation.invars[1].aval.shape
            window = prod(sides[axis] for axis in given["dimension_numbers"].rhs_spec[1:])
            # Of a dilated input all but one in so many values are zeros that nobody multiplies.
            spread = prod(given["lhs_dilation"])
            total += 2 * equation.outvars[0].aval.size * window / spread
        else:
            inner = [products(jaxpr) for jaxpr in _inner(equation)]
            most = max(inner, default=0.0) if kind == "cond" else sum(inner)
            total += most * (given["length"] if kind == "scan" else 1)
    return total


def _skeleton(recipe: Recipe) -> Any:
    return eqx.filter_eval_shape(build_model, recipe, key=jr.key(0))


def _is_shape(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _count(skeleton: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(skeleton, _is_shape)))


def _inputs(data: DataSpec, n: int, dtype: jnp.dtype) -> tuple[Any, Any, Any]:
    return (
        jax.ShapeDtypeStruct((n, *data.shape), dtype),
        jax.ShapeDtypeStruct((n, 1), jnp.float32),
        jax.ShapeDtypeStruct((n,), jnp.int32) if data.num_classes else None,
    )


def _kept(forward: Callable[..., Array], arrays: Any, inputs: tuple[Any, Any, Any]) -> int:
    """Bytes of what `jax.vjp` keeps for the backward pass."""

    def backward(arrays: Any, x: Array, c: Array, labels: Array | None) -> Any:
        return jax.vjp(lambda arrays: forward(arrays, x, c, labels), arrays)[1]

    residuals = jax.tree.leaves(jax.eval_shape(backward, arrays, *inputs))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in residuals)


def _flops(program: Any) -> float:
    """XLA's count for a program; it counts the body of a scan once, whatever its length."""
    lowered = jax.jit(jax.extend.core.jaxpr_as_fun(program)).lower(*program.in_avals)
    total = (lowered.cost_analysis() or {}).get("flops", 0.0)
    for scan in _scans(program.jaxpr):
        more = scan.params["length"] - scan.params["unroll"]
        total += more * _flops(scan.params["jaxpr"])
    return total


def _scans(jaxpr: Any) -> Iterator[Any]:
    """The scans of a program, but not those inside others."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
            continue
        for inner in _inner(equation):
            yield from _scans(inner)


def _inner(equation: Any) -> Iterator[Any]:
    """The jaxprs that an equation runs."""
    for value in equation.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner
