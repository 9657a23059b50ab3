"""What of a loss is not trained: the arrays of its distances and encoders.

They stay out of the state, and so out of the optimizer and of checkpoints, and are given to every step.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np

from scmkit.composing.recipe import Recipe
from scmkit.data.derived import digest_arrays
from scmkit.errors import RunError
from scmkit.interfaces import AbstractDistance, AbstractEncoder, AnyLoss
from scmkit.losses import frozen
from scmkit.plugin import Slot

L = TypeVar("L")

KEY = "fixed"
"""The key of these arrays' digest in a checkpoint's metadata."""


def trained_of(loss: AnyLoss) -> AnyLoss:
    """A loss without the arrays that are not trained; whatever is no array stays."""
    return _parted(loss)[0]


def fixed_of(loss: AnyLoss) -> AnyLoss | None:
    """A loss with nothing but the arrays that are not trained; None where it has none."""
    fixed = _parted(loss)[1]
    return fixed if jax.tree.leaves(fixed) else None


def whole(trained: L, fixed: L | None) -> L:
    """The loss that `trained_of` and `fixed_of` have parted; the second part gets no gradient."""
    return trained if fixed is None else eqx.combine(trained, frozen(fixed))


def _parted(loss: AnyLoss) -> tuple[Any, Any]:
    def is_fixed(node: Any) -> bool:
        return isinstance(node, AbstractDistance | AbstractEncoder)

    def stays(node: Any) -> Any:
        return (lambda leaf: not eqx.is_array(leaf)) if is_fixed(node) else True

    return eqx.partition(loss, jax.tree.map(stays, loss, is_leaf=is_fixed))


def noted_fixed(fixed: Mapping[str, Any]) -> dict[str, str]:
    """The digest of these arrays, of every player, for the metadata of a checkpoint; empty where none are."""
    leaves = jtu.tree_leaves_with_path(dict(fixed))
    if not leaves:
        return {}
    return {KEY: digest_arrays({jtu.keystr(path): np.asarray(leaf) for path, leaf in leaves})}


def check_fixed(recipe: Recipe, noted: Mapping[str, str], saved: Mapping[str, Any]) -> None:
    """Raises `RunError` where a checkpoint's metadata name other arrays than the recipe leads to now."""
    if saved.get(KEY, noted.get(KEY)) == noted.get(KEY):
        return
    slots = (Slot.encoder, Slot.distance)
    names = " and ".join(f"'{recipe.slots[slot]}'" for slot in slots if slot in recipe.slots)
    raise RunError(
        f"the weights of {names or 'its distance'} are not those that the run was trained with: their file "
        "has changed; put back what it held, or begin a new run"
    )
