"""One training step by its shapes alone: a plugin that fails in it is named before hours of work."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.composing.blame import blaming
from scmkit.composing.build import build, build_model
from scmkit.composing.conformity import expect_array
from scmkit.composing.footprint import products
from scmkit.composing.recipe import Recipe
from scmkit.interfaces import AbstractTangentEstimator, Conditioning
from scmkit.training.step import Batch, objective
from scmkit.types import Key, Scalar

_SAMPLES = 2


def rehearse(recipe: Recipe, *, step: int = 0, teacher_step: int = 0) -> float:
    """Build a recipe and trace its loss and gradient, with the model as its own teacher.

    A teacher that is yet to be trained comes first. Returns the FLOPs that training takes from `step` on, and
    its teacher's from `teacher_step` on: those of matrix products and convolutions, nearly all there are.
    Raises `PluginError` naming plugin, package and version of what raises or returns something other than its
    interface says; what comes from no plugin is raised as it is.
    """
    before = 0.0
    if isinstance(recipe.teacher, Recipe):
        before = rehearse(recipe.teacher, step=teacher_step)
    with blaming([recipe.plugin(name)[0] for name in set(recipe.slots.values())]):
        program, _, _ = eqx.filter_make_jaxpr(lambda key: _traced(recipe, key))(jr.key(0))
    train = recipe.train
    samples = max(0, train.steps - step) * train.batch_size
    return before + samples * products(program.jaxpr) / _SAMPLES


class _Checked(AbstractTangentEstimator):
    """A tangent whose answers are held against its interface, wherever the loss asks for them."""

    inner: AbstractTangentEstimator

    def __call__(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        dx = self.inner(x0, eps, x_t, t, cond)
        expect_array(self.inner, "tangent", dx, x_t.shape, x_t.dtype)
        return dx

    def advance(
        self,
        x0: Float[Array, "*shape"],
        eps: Float[Array, "*shape"],
        x_t: Float[Array, "*shape"],
        t: Scalar,
        r: Scalar,
        cond: Conditioning | None,
    ) -> Float[Array, "*shape"]:
        x_r = self.inner.advance(x0, eps, x_t, t, r, cond)
        expect_array(self.inner, "tangent", x_r, x_t.shape, x_t.dtype)
        return x_r


def _traced(recipe: Recipe, key: Key) -> Any:
    assembly = build(recipe, key=key, teacher=build_model(recipe, key=key))
    x0 = jnp.zeros((_SAMPLES, *recipe.data.shape), jnp.float32)
    labels = jnp.zeros(_SAMPLES, jnp.int32) if recipe.data.num_classes else None
    batch = Batch(x0, None if labels is None else Conditioning(labels))
    # Network and loss are checked where every step calls them.
    gradient = eqx.filter_grad(objective, has_aux=True)
    trained, tangent = (assembly.model, assembly.loss), _Checked(assembly.tangent)
    return gradient(trained, tangent, batch, jr.split(key, _SAMPLES), jnp.zeros((), jnp.int32))
