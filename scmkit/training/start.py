"""The weights that training starts from: the teacher's, where they fit."""

import equinox as eqx
import jax

from scmkit.composing.build import Assembly
from scmkit.composing.recipe import Recipe
from scmkit.models.conditioning import ScalarEmbedding, SecondLabel
from scmkit.models.model import Model
from scmkit.plugin import Slot
from scmkit.runs.run import Run
from scmkit.training.progress import Reporter

WITHOUT_VELOCITY = ("consistency", "generator")
"""The kinds of model that have no probability-flow ODE for a student to follow."""


def weights_from(teacher: Model, fresh: Model) -> Model | None:
    """The fresh model with the teacher's weights, if its arrays and its parameterization are the same.

    Leaves that are no arrays, such as a dropout rate, may differ and stay the fresh model's own. So do
    the embeddings of scalar conditions and of a jump's end, which start silent, where the teacher has none.
    """
    weights = _named_arrays(teacher)
    arrays, rest = eqx.partition(fresh, eqx.is_array)
    mine = _named_arrays(fresh)
    own = [name for name in mine if name not in weights and name.startswith(_silent_nodes(fresh))]
    found = {
        name: weights.get(name, array if name in own else None) for name, array in mine.items()
    }
    alike = eqx.tree_equal(teacher.parameterization, fresh.parameterization) is True
    fits = len(weights) + len(own) == len(mine) and all(
        there is not None and (there.shape, there.dtype) == (mine[name].shape, mine[name].dtype)
        for name, there in found.items()
    )
    if not (alike and fits):
        return None
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), list(found.values())), rest)


def started(assembly: Assembly, recipe: Recipe, teacher: Run, reporter: Reporter) -> Assembly:
    """The modules with the teacher's weights in the model, and in the players that start from the teacher."""
    _warn_of_kind(recipe, teacher, reporter)
    weights = weights_from(teacher.model, assembly.model)
    if weights is None:
        reporter.message(
            f"teacher '{teacher.path}' has another network or parameterization: "
            "the model starts from fresh weights"
        )
    else:
        assembly = eqx.tree_at(lambda a: a.model, assembly, weights)
    for name, player in recipe.players.items():
        if player.model is not None or player.start == "fresh":
            continue
        module, loss = assembly.players[name]
        weights = weights_from(teacher.model, module)
        if weights is None:
            reporter.message(f"player '{name}' starts from fresh weights, as the model does")
        else:
            players = assembly.players | {name: (weights, loss)}
            assembly = eqx.tree_at(lambda a: a.players, assembly, players)
    return assembly


def _warn_of_kind(recipe: Recipe, teacher: Run, reporter: Reporter) -> None:
    """Say so where a student is to follow the velocity of a model that has none."""
    tangent = recipe.slots[Slot.tangent]
    options, made = recipe.plugins[tangent].config, teacher.recipe.makes
    if recipe.starts_from != "teacher" or made not in WITHOUT_VELOCITY or options.get("follow"):
        return
    other = f", or follow one with --set {tangent}.follow=RUN" if "follow" in options else ""
    reporter.message(
        f"teacher '{teacher.path}' is a {made} model, which has no velocity to learn from, and what is "
        f"distilled from it means little: name a diffusion model{other}"
    )


def _named_arrays(model: Model) -> dict[str, jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    return {jax.tree_util.keystr(path): array for path, array in leaves}


def _silent_nodes(model: Model) -> tuple[str, ...]:
    """Where in a model the embeddings are that start silent, so that a teacher need not have them."""

    def is_one(node: object) -> bool:
        return isinstance(node, ScalarEmbedding | SecondLabel)

    leaves = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_one)
    return tuple(jax.tree_util.keystr(path) for path, node in leaves if is_one(node))
