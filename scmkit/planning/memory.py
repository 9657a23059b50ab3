"""The memory of a device, of any mesh, from that of the one for which a step was compiled."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jaxtyping import PyTree

from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import DATA, FSDP
from scmkit.planning.hardware import Target
from scmkit.planning.program import Skeleton, shapes_of

ROOM = 0.9
"""The share of a device's memory that is planned with. Libraries, and holes between arrays, want the rest."""

CHANGING = ("weights", "moments", "averages", "followers")
"""What every step reads and writes."""

GATHERED = ("weights", "followers", "teacher", "memories", "other")
"""What every step has whole for a while."""

Kinds = Mapping[str, PyTree]


@dataclass(frozen=True)
class Split:
    """How a training is divided: the sides of the mesh, and micro-batches in turn."""

    data: int
    fsdp: int
    accumulate: int

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.data * self.fsdp

    @property
    def mesh(self) -> str:
        """The mesh as `--mesh` takes it."""
        return f"{DATA}={self.data},{FSDP}={self.fsdp}"


@dataclass(frozen=True)
class Memory:
    """Bytes of a device.

    **Attributes:**

    - `lasting`: what stays from step to step, by kind.
    - `temporary`: what a step needs besides: activations, whole weights and gradients, what is sent.
    """

    lasting: Mapping[str, float]
    temporary: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.lasting.values()) + self.temporary

    @property
    def changing(self) -> float:
        """What every step reads and writes."""
        return sum(self.lasting.get(kind, 0.0) for kind in CHANGING)

    def fits(self, target: Target) -> bool:
        """Whether it is within the room of a device."""
        return self.total <= ROOM * target.memory


def kinds_of(given: Skeleton) -> Kinds:
    """What stays from step to step, by kind."""
    players = given.state.players.values()
    return {
        "weights": [(player.model, player.loss) for player in players],
        "moments": [player.optimizer_state for player in players],
        "averages": [player.ema for player in players],
        "followers": [player.followers for player in players],
        "teacher": given.setting.teacher,
        "memories": given.state.memories,
        "other": given.other,
    }


def lasting(kinds: Kinds, split: Split) -> dict[str, float]:
    """The bytes of each kind on a device; kinds of which there is nothing are left out."""
    layout = _layout(split)
    sizes = {kind: sum(_bytes(tree, layout)) for kind, tree in kinds.items()}
    return {kind: size for kind, size in sizes.items() if size}


def nearest(
    kinds: Kinds, planned: Split, memory: Memory, batch_size: int, target: Target
) -> Split | None:
    """The least change that fits: a larger `fsdp`, else more micro-batches, else both; None where none does.

    Activations are taken to shrink with the micro-batch, and all else of the temporary memory to stay.
    """
    n = planned.devices
    wider = [
        replace(planned, data=n // m, fsdp=m) for m in range(planned.fsdp + 1, n + 1) if n % m == 0
    ]
    finer = [
        k for k in range(planned.accumulate + 1, batch_size // n + 1) if batch_size % (n * k) == 0
    ]
    tries = [*wider, *(replace(s, accumulate=k) for s in (planned, *wider[-1:]) for k in finer)]
    for split in tries:
        there = Memory(lasting(kinds, split), _temporary(kinds, planned, memory.temporary, split))
        if there.fits(target):
            return split
    return None


def _temporary(kinds: Kinds, planned: Split, temporary: float, split: Split) -> float:
    """What a step needs besides on another mesh, or with other micro-batches."""
    activations = max(0.0, temporary - _whole(kinds, planned))
    return _whole(kinds, split) + activations * planned.accumulate / split.accumulate


def _whole(kinds: Kinds, split: Split) -> float:
    """The bytes of what a step has whole for a while: gathered arrays, and gradients."""
    layout, everywhere = _layout(split), _layout(Split(split.devices, 1, 1))
    gathered = sum(
        whole
        for kind in GATHERED
        for whole, part in zip(
            _bytes(kinds[kind], everywhere), _bytes(kinds[kind], layout), strict=True
        )
        if whole != part
    )
    gradients = sum(_bytes(kinds["weights"], everywhere))
    return gathered + gradients * (1 if split.accumulate == 1 else 2)


def _bytes(tree: PyTree, layout: Layout) -> Iterator[float]:
    """The bytes of each array on a device."""
    for leaf in shapes_of(tree):
        parts = layout.mesh.shape[FSDP] if layout.axis(leaf) is not None else 1
        yield leaf.size * _itemsize(leaf) / parts


def _itemsize(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8  # Two words of 32 bits.
    return leaf.dtype.itemsize


def _layout(split: Split) -> Layout:
    """The rule on a mesh without devices."""
    return Layout(AbstractMesh((split.data, split.fsdp), (DATA, FSDP)))
