"""The plan of a training: what it takes of each device, how fast a step can be, and what would fit."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax

from scmkit.composing.recipe import Recipe
from scmkit.distribution.collectives import Collective, program_costs
from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import check_batch, mesh_of, parse_mesh
from scmkit.planning.hardware import Target, target_of
from scmkit.planning.memory import Memory, Split, kinds_of, lasting, nearest
from scmkit.planning.program import compiled_step, shapes_of, skeleton
from scmkit.plugin import Slot


@dataclass(frozen=True)
class Plan:
    """What a training takes of each device.

    **Attributes:**

    - `network`, `loss`: what the plugins are called.
    - `parameters`: the number of weights of every player.
    - `split`: the mesh and the micro-batches.
    - `target`: the kind of device.
    - `batch_size`, `steps`, `precision`: those of the recipe.
    - `memory`: the bytes of a device.
    - `flops`: operations of a device in a step, in matrix products and convolutions.
    - `collectives`: what passes between devices in a step.
    - `remedy`: the nearest mesh, or number of micro-batches, that would fit; None where all fits, or nothing.
    """

    network: str
    loss: str
    parameters: Mapping[str, int]
    split: Split
    target: Target
    batch_size: int
    steps: int
    precision: str
    memory: Memory
    flops: float
    collectives: tuple[Collective, ...]
    remedy: Split | None = None

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.split.devices

    @property
    def fits(self) -> bool:
        """Whether memory is enough, as far as a plan can say."""
        return self.memory.fits(self.target)

    @property
    def multiplying(self) -> float:
        """The least seconds of a step's matrix products and convolutions."""
        return self.flops / self.target.products[self.precision]

    @property
    def updating(self) -> float:
        """The least seconds in which what a step changes is read once and written once."""
        return 2 * self.memory.changing / self.target.bandwidth

    def exchanging(self, one: Collective) -> float:
        """The least seconds of what passes in one way."""
        return one.sent / self.target.between(one.group)

    @property
    def passing(self) -> float:
        """The least seconds of all that passes between devices."""
        return sum(map(self.exchanging, self.collectives))

    @property
    def step_seconds(self) -> tuple[float, float]:
        """The least seconds of a step: where computing hides all that passes, and where it hides nothing."""
        computing = self.multiplying + self.updating
        return max(computing, self.passing), computing + self.passing

    @property
    def device_hours(self) -> tuple[float, float]:
        """The least hours of all devices together for the whole training, likewise."""
        low, high = (s * self.steps * self.devices / 3600 for s in self.step_seconds)
        return low, high

    @property
    def images_per_second(self) -> tuple[float, float]:
        """The most samples a second, likewise."""
        low, high = (self.batch_size / s for s in self.step_seconds)
        return low, high

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        passed = [
            {
                "kind": one.kind,
                "devices": len(one.group),
                "bytes": one.bytes,
                "sent": one.sent,
                "seconds": self.exchanging(one),
            }
            for one in self.collectives
        ]
        return {
            "network": self.network,
            "loss": self.loss,
            "parameters": dict(self.parameters),
            "target": self.target.name,
            "mesh": self.split.mesh,
            "accumulate": self.split.accumulate,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "precision": self.precision,
            "memory": asdict(self.memory),
            "fits": self.fits,
            "remedy": None if self.remedy is None else asdict(self.remedy),
            "flops": self.flops,
            "collectives": passed,
            "multiplying_seconds": self.multiplying,
            "updating_seconds": self.updating,
            "passing_seconds": self.passing,
            "step_seconds": self.step_seconds,
            "images_per_second": self.images_per_second,
            "device_hours": self.device_hours,
        }


def plan(recipe: Recipe, *, devices: int, mesh: str | None = None, target: str = "h100") -> Plan:
    """The plan of a recipe's training on so many devices of a kind, none of which need be here.

    Call `pretend(devices)` first, in a process in which JAX has computed nothing yet. Compiling takes seconds
    for small networks and minutes for large ones. Raises `UsageError` where the mesh or the batch does not
    divide among the devices.
    """
    kind, train = target_of(target), recipe.train
    data, fsdp = parse_mesh(mesh, devices)
    check_batch(train.batch_size, train.accumulate, devices)
    given = skeleton(recipe)
    layout = Layout(mesh_of(mesh, jax.devices()[:devices]))
    step = compiled_step(recipe, given, layout, mesh)
    costs = program_costs(step.as_text())
    kinds = kinds_of(given)
    split = Split(data, fsdp, train.accumulate)
    temporary = float(step.memory_analysis().temp_size_in_bytes)
    memory = Memory(lasting(kinds, split), temporary)
    players = given.state.players
    return Plan(
        network=recipe.slots[Slot.network],
        loss=recipe.slots[Slot.loss],
        parameters={
            name: sum(leaf.size for leaf in shapes_of(player.model))
            for name, player in players.items()
        },
        split=split,
        target=kind,
        batch_size=train.batch_size,
        steps=train.steps,
        precision=train.precision,
        memory=memory,
        flops=costs.flops,
        collectives=costs.collectives,
        remedy=None if memory.fits(kind) else nearest(kinds, split, memory, train.batch_size, kind),
    )
