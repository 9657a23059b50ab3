"""Checks of normalizations."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.interfaces import AbstractNorm, GatedNormFactory, NormFactory
from scmkit.plugin import Slot
from scmkit.testing.check import require, require_close, require_finite
from scmkit.testing.family import Family
from scmkit.testing.numeric import arrays_of, central_difference, jittered, one_by_one

CHANNELS, DIM = 12, 6
SHAPES = ((CHANNELS,), (5, CHANNELS), (4, 4, CHANNELS))
"""Shapes that networks normalize: a vector, tokens, an image; channels last."""


def the_factory_makes_norms(factory: NormFactory) -> None:
    require(
        not isinstance(factory, AbstractNorm),
        "the norm slot holds a factory (channels, dim, *, key) -> AbstractNorm, not a norm itself",
    )
    for channels in (8, CHANNELS):
        norm = factory(channels, DIM, key=jr.key(0))
        require(
            isinstance(norm, AbstractNorm),
            f"the factory must make an AbstractNorm, not a {type(norm).__name__}",
        )


def initialization_depends_on_the_key_alone(factory: NormFactory) -> None:
    first, second = (arrays_of(factory(CHANNELS, DIM, key=jr.key(3))) for _ in range(2))
    require(
        all((a == b).all() for a, b in zip(first, second, strict=True)),
        "one key must always give the same initial weights",
    )


def shape_and_dtype_are_kept(factory: NormFactory) -> None:
    norm, emb = _norm(factory), _inputs((DIM,))
    for shape in SHAPES:
        for dtype in (jnp.float32, jnp.bfloat16):
            out = jax.jit(norm.__call__)(_inputs(shape).astype(dtype), emb)
            require(
                out.shape == shape and out.dtype == dtype,
                f"{jnp.dtype(dtype)} of shape {shape} comes out as {out.dtype} of shape {out.shape}",
            )
            require_finite(out.astype(jnp.float32), f"the output for {jnp.dtype(dtype)}")


def a_constant_sample_is_no_problem(factory: NormFactory) -> None:
    norm, emb = _norm(factory), _inputs((DIM,))
    for value in (0.0, 1.0):
        x = jnp.full(SHAPES[-1], value)
        loss = jax.jit(jax.value_and_grad(lambda x: jnp.sum(norm(x, emb) ** 2)))
        out, gradient = loss(x)
        require_finite(out, f"the output for x = {value}")
        require_finite(gradient, f"the gradient at x = {value}")


def the_embedding_modulates(factory: NormFactory) -> None:
    norm, x = _norm(factory), _inputs(SHAPES[1])
    modulated = jax.jit(lambda emb: norm(x, emb))
    gap = float(jnp.abs(modulated(_inputs((DIM,), 1)) - modulated(_inputs((DIM,), 2))).max())
    require(gap > 1e-4, "the output does not change with the embedding, whatever the weights")


def derivative_is_finite_and_right(factory: NormFactory) -> None:
    norm = _norm(factory)
    for shape in SHAPES:
        at = (_inputs(shape), _inputs((DIM,)))
        direction = (_inputs(shape, 1), _inputs((DIM,), 1))

        @jax.jit
        def both(at: Any, direction: Any) -> tuple[Array, Array]:
            slope = jax.jvp(norm, at, direction)[1]
            return slope, central_difference(norm, at, direction, 1e-2)

        slope, expected = both(at, direction)
        require_finite(slope, "the derivative")
        require_close(slope, expected, f"the derivative for shape {shape}", tolerance=2e-2)


def gates_are_factors_of_the_channels(factory: NormFactory) -> None:
    if isinstance(factory, type) or not isinstance(factory, GatedNormFactory):
        return
    gate = jittered(factory.gate(CHANNELS, DIM, key=jr.key(0)))
    one, other = gate(_inputs((DIM,), 1)), gate(_inputs((DIM,), 2))
    require(
        one.shape == (CHANNELS,) and one.dtype == jnp.float32,
        f"a gate must give float32 of shape ({CHANNELS},), not {one.dtype} of shape {one.shape}",
    )
    require(jnp.abs(one - other).max() > 1e-4, "a gate does not change with the embedding")


def vmap_is_a_loop(factory: NormFactory) -> None:
    norm = _norm(factory)
    x, emb = _inputs((3, *SHAPES[-1])), _inputs((3, DIM))
    both = jax.jit(lambda x, emb: (jax.vmap(norm)(x, emb), one_by_one(norm, x, emb)))
    batched, looped = both(x, emb)
    require_close(batched, looped, "the norm under vmap")


def _norm(factory: NormFactory) -> AbstractNorm:
    """A layer that has been trained a little: some start with a silent modulation."""
    return jittered(factory(CHANNELS, DIM, key=jr.key(0)))


def _inputs(shape: tuple[int, ...], seed: int = 0) -> Float[Array, "..."]:
    return jr.normal(jr.key(seed), shape)


FAMILY = Family(
    lambda bench: bench.build(Slot.norm),
    (
        the_factory_makes_norms,
        initialization_depends_on_the_key_alone,
        shape_and_dtype_are_kept,
        a_constant_sample_is_no_problem,
        the_embedding_modulates,
        derivative_is_finite_and_right,
        gates_are_factors_of_the_channels,
        vmap_is_a_loop,
    ),
)
