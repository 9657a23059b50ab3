"""On which devices training keeps its arrays, and what passes between them in a step."""

from typing import TypeVar

import jax

from scmkit.composing.recipe import Recipe
from scmkit.distribution.gradient import hands_of
from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import check_batch, mesh_of
from scmkit.settings import TrainingSettings

T = TypeVar("T")


def check_mesh(recipe: Recipe, mesh: str | None) -> None:
    """Raises `UsageError` where a mesh, such as `data=8,fsdp=8`, fits neither devices nor batches.

    A teacher's that is yet to be trained is one of them.
    """
    devices = mesh_of(mesh).size
    for one in (recipe, recipe.teacher):
        if isinstance(one, Recipe):
            check_batch(one.train.batch_size, one.train.accumulate, devices)


class Placement:
    """All devices of all processes: the state divided as the mesh says, of each batch a part on each.

    **Arguments:**

    - `settings`: of the training.
    - `mesh`: such as `data=8,fsdp=8`; all devices for data by default.

    Raises `UsageError` where the mesh does not fit the devices or a batch cannot be divided among them.
    """

    def __init__(self, settings: TrainingSettings, mesh: str | None = None) -> None:
        self.layout = Layout(mesh_of(mesh))
        check_batch(settings.batch_size, settings.accumulate, self.layout.devices)
        self.hands = hands_of(mesh, self.layout)

    def placed(self, tree: T) -> T:
        """A tree that every process holds whole, with its arrays in their places, each of them once."""
        return self.layout.placed_once(tree)

    def everywhere(self, tree: T) -> T:
        """A tree whose arrays are whole on every device."""
        return self.layout.everywhere(tree)

    def by_sample(self, tree: T) -> T:
        """The rows of this process's samples, divided among its devices."""
        return self.layout.samples(tree)

    def local(self, tree: T) -> T:
        """A tree whose arrays are whole on this process's first device; all processes take part."""
        return tree if jax.device_count() == 1 else self.layout.local(tree)
