"""One training step by its shapes alone: a plugin that fails in it is named before hours of work."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.assembly import build, build_model
from scmkit.blame import blaming
from scmkit.interfaces import AbstractTangentEstimator, Conditioning
from scmkit.recipe import Recipe
from scmkit.returned import expect_array
from scmkit.training.step import Batch, objective
from scmkit.types import Key, Scalar


def rehearse(recipe: Recipe) -> None:
    """Build a recipe and trace its loss and gradient, with the model as its own teacher.

    A teacher that is yet to be trained comes first. Raises `PluginError` naming plugin, package and version
    of what raises or returns something other than its interface says; what comes from no plugin is raised as
    it is.
    """
    if isinstance(recipe.teacher, Recipe):
        rehearse(recipe.teacher)
    with blaming([recipe.plugin(name)[0] for name in set(recipe.slots.values())]):
        eqx.filter_eval_shape(lambda key: _traced(recipe, key), jr.key(0))


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
    x0 = jnp.zeros((2, *recipe.data.shape), jnp.float32)
    labels = jnp.zeros(2, jnp.int32) if recipe.data.num_classes else None
    batch = Batch(x0, None if labels is None else Conditioning(labels))
    # Network and loss are checked where every step calls them.
    gradient = eqx.filter_grad(objective, has_aux=True)
    trained, tangent = (assembly.model, assembly.loss), _Checked(assembly.tangent)
    return gradient(trained, tangent, batch, jr.split(key, 2), jnp.zeros((), jnp.int32))
