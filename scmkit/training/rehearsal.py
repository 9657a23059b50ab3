"""One training step by its shapes alone: a plugin that fails in it is named before hours of work."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from scmkit.assembly import Assembly, build, build_model
from scmkit.blame import blamed
from scmkit.discovery import Entry
from scmkit.errors import PluginError, ScmkitError
from scmkit.interfaces import Conditioning
from scmkit.plugin import Slot
from scmkit.recipe import Recipe
from scmkit.training.step import Batch, objective
from scmkit.types import Key


def rehearse(recipe: Recipe) -> None:
    """Build a recipe and trace its loss and gradient, with the model as its own teacher.

    Raises `PluginError` naming plugin, package and version of what raises or returns something other
    than its interface says; what comes from no plugin is raised as it is.
    """
    owners = {slot: recipe.plugin(name)[0] for slot, name in recipe.slots.items()}
    try:
        eqx.filter_eval_shape(lambda key: _traced(recipe, owners, key), jr.key(0))
    except ScmkitError:
        raise
    except Exception as error:
        blame = blamed(error, list(owners.values()))
        if blame is None:
            raise
        raise blame from error


def _traced(recipe: Recipe, owners: dict[Slot, Entry], key: Key) -> Any:
    assembly = build(recipe, key=key, teacher=build_model(recipe, key=key))
    x0 = jnp.zeros((2, *recipe.data.shape), jnp.float32)
    labels = jnp.zeros(2, jnp.int32) if recipe.data.num_classes else None
    batch = Batch(x0, None if labels is None else Conditioning(labels))
    _check(recipe, owners, assembly, x0[0], None if labels is None else Conditioning(labels[0]))
    trained = (assembly.model, assembly.loss)
    gradient = eqx.filter_grad(objective, has_aux=True)
    return gradient(trained, assembly.tangent, batch, jr.split(key, 2), jnp.zeros((), jnp.int32))


def _check(
    recipe: Recipe,
    owners: dict[Slot, Entry],
    assembly: Assembly,
    x0: Float[Array, "*shape"],
    cond: Conditioning | None,
) -> None:
    key, step = jr.key(0), jnp.zeros((), jnp.int32)
    t = jnp.asarray(0.5, jnp.float32)
    if "guidance" not in recipe.conditions:
        same = (x0.shape, jnp.dtype("float32"))
        F = eqx.filter_eval_shape(assembly.model.raw, x0, t, cond)
        _expect(owners[Slot.network], Slot.network, F, same)
        dx = eqx.filter_eval_shape(assembly.tangent, x0, x0, x0, t, cond)
        _expect(owners[Slot.tangent], Slot.tangent, dx, same)
    out = eqx.filter_eval_shape(
        assembly.loss, assembly.model, assembly.tangent, x0, cond, step=step, key=key
    )
    _expect(owners[Slot.loss], Slot.loss, out.value, ((), jnp.dtype("float32")))


def _expect(entry: Entry, slot: Slot, got: Any, wanted: tuple[tuple[int, ...], Any]) -> None:
    found = (getattr(got, "shape", None), getattr(got, "dtype", type(got).__name__))
    if found != wanted:
        raise PluginError(
            f"{entry} returned {found[1]}{found[0]} from its {slot}, which must be "
            f"{wanted[1]}{wanted[0]} (try: pip install --upgrade {entry.package})"
        )
