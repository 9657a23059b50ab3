"""Averages and other copies of parameters that lag behind them."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Inexact, Int, PyTree

from scmkit.types import Scalar


class AbstractEMA(eqx.Module):
    """A profile of averaging; a final class says how much weight the newest parameters get."""

    @abc.abstractmethod
    def gain(self, step: Int[Array, ""]) -> Scalar:
        """`1 - beta` of update number `step` (the first is 1), in [0, 1].

        Not `beta`, which in float32 is too close to 1 to tell long averages apart.
        """

    def decay(self, step: Int[Array, ""]) -> Scalar:
        """`beta` of update number `step` (the first is 1)."""
        return 1 - self.gain(step)

    def update(self, average: PyTree, params: PyTree, step: Int[Array, ""]) -> PyTree:
        """The average after update number `step` (the first is 1) led to `params`.

        Inexact arrays are averaged, in float32 or better, and keep the dtype they have in
        `average`. Other leaves, such as counters, are taken from `params`.
        """
        gain = self.gain(step)

        def mix(old: Any, new: Any) -> Any:
            return _interpolate(old, new, gain) if eqx.is_inexact_array(new) else new

        # Leaf by leaf: a copy that starts as a teacher keeps what the teacher's type says of it.
        old, structure = jtu.tree_flatten(average)
        mixed = [mix(*pair) for pair in zip(old, jtu.tree_leaves(params), strict=True)]
        return jtu.tree_unflatten(structure, mixed)


def _interpolate(
    old: Inexact[Array, "*shape"], new: Inexact[Array, "*shape"], gain: Scalar
) -> Inexact[Array, "*shape"]:
    # Each form is exact at its end, and neither drifts where `1 - gain` rounds (as in torch.lerp).
    precise = old.dtype if jnp.finfo(old.dtype).bits >= 32 else jnp.float32
    start, end, weight = old.astype(precise), new.astype(precise), gain.astype(precise)
    change = end - start
    mixed = jnp.where(gain < 0.5, start + weight * change, end - (1 - weight) * change)
    return mixed.astype(old.dtype)
