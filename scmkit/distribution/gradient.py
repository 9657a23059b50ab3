"""The gradient by hand: weights gathered, own samples, and every gradient summed to its weight's owner.

This is ZeRO's stage 3 (arXiv 1910.02054) with weights gathered once a step. Left to itself, XLA doubles the
operations of a step on sharded weights and gathers them ten times over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import DATA, FSDP, gather_dtype

BOTH = (DATA, FSDP)


@dataclass(frozen=True)
class ByHand:
    """What passes between devices in a step.

    **Attributes:**

    - `layout`: where arrays lie.
    - `dtype`: the dtype of two bytes in which weights are gathered, such as bfloat16; None for their own.
    """

    layout: Layout
    dtype: Any = None

    def gather(self, tree: PyTree) -> PyTree:
        """The divided arrays of a tree, whole, and None for all else: `eqx.combine` with the tree."""
        layout = self.layout

        def divided(leaf: Any) -> bool:
            return eqx.is_array(leaf) and layout.axis(leaf) is not None

        arrays = eqx.filter(tree, divided)
        if not jax.tree.leaves(arrays):
            return arrays

        def gathered(arrays: PyTree) -> PyTree:
            return jax.tree.map(lambda a, axis: self._all(a, axis), arrays, axes)

        axes, specs = jax.tree.map(layout.axis, arrays), jax.tree.map(layout.spec, arrays)
        return self._mapped(gathered, (specs,), PartitionSpec())(arrays)

    def _all(self, a: Any, axis: int) -> Any:
        if self.dtype is None or not jnp.issubdtype(a.dtype, jnp.floating):
            return jax.lax.all_gather(a, FSDP, axis=axis, tiled=True)
        # As bits, which XLA does not widen again before it sends them.
        bits = jax.lax.bitcast_convert_type(a.astype(self.dtype), jnp.uint16)
        there = jax.lax.all_gather(bits, FSDP, axis=axis, tiled=True)
        return jax.lax.bitcast_convert_type(there, self.dtype).astype(a.dtype)

    def gradient(self, differentiate: Callable[..., Any]) -> Callable[..., Any]:
        """`differentiate(trained, scene, batch, keys, fixed) -> ((value, aux), gradients)` on own samples.

        `trained`, `scene` and `fixed` are whole. The value is the mean over all devices; so are the
        gradients, each in the place of its weight; `aux` has the rows of the batch.
        """
        rows, whole = self.layout.rows, PartitionSpec()

        def by_hand(trained: Any, scene: Any, batch: Any, keys: Any, fixed: Any) -> Any:
            arrays, rest = eqx.partition((trained, scene, fixed), eqx.is_array)
            given, labels = eqx.partition((batch, keys), eqx.is_array)
            weights = eqx.filter(trained, eqx.is_inexact_array)

            def own(arrays: PyTree, given: PyTree) -> Any:
                trained, scene, fixed = eqx.combine(arrays, rest)
                (value, aux), grads = differentiate(
                    trained, scene, *eqx.combine(given, labels), fixed
                )
                return (jax.lax.pmean(value, BOTH), aux), jax.tree.map(self._mean, grads)

            places = jax.tree.map(self.layout.spec, weights)
            run = self._mapped(own, (whole, rows), ((whole, rows), places))
            return run(arrays, given)

        return by_hand

    def _mean(self, gradient: Any) -> Any:
        """The mean of a gradient over all devices, of which each keeps its part."""
        axis = self.layout.axis(gradient)
        if axis is None:
            return jax.lax.pmean(gradient, BOTH)
        part = jax.lax.psum_scatter(gradient, FSDP, scatter_dimension=axis, tiled=True)
        if self.layout.mesh.shape[DATA] > 1:
            part = jax.lax.psum(part, DATA)
        return part / self.layout.devices

    def _mapped(self, function: Callable[..., Any], given: Any, returned: Any) -> Any:
        return jax.shard_map(
            function,
            mesh=self.layout.mesh,
            in_specs=given,
            out_specs=returned,
            check_vma=False,
        )


def hands_of(text: str | None, layout: Layout) -> ByHand | None:
    """What passes between the devices of a layout, whose mesh a text describes; None for a single device.

    Raises `UsageError` for text that describes no mesh.
    """
    dtype = gather_dtype(text)
    return ByHand(layout, dtype) if layout.devices > 1 else None
