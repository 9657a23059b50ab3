"""Importers: the weights of other people's networks as those of a network here."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scmkit.interfaces.dataset import DataSpec


@dataclass(frozen=True)
class Imported:
    """A network of a foreign file as a recipe and the leaves of its model.

    **Attributes:**

    - `plugins`, `settings`: what `compose` takes; they are inferred from names and shapes.
    - `data`: what the network was trained on, as far as a model needs to know.
    - `leaves`: for each array of the model, by its name in a checkpoint (`"network/first/weight"`), the
        parameter it comes from and its value in this model's layout.
    - `dropped`: parameters of the file of which nothing is used, and whose use there is not known.
    - `assumed`: options that change what the network computes, and of which the file says nothing; a setting
        of the user's, or else the default, is taken. `"data.sigma_data"` may be one.
    """

    plugins: tuple[str, ...]
    settings: Mapping[str, Any]
    data: DataSpec
    leaves: Mapping[str, tuple[str, np.ndarray]]
    dropped: tuple[str, ...] = field(default=())
    assumed: tuple[str, ...] = field(default=())


class AbstractImporter(abc.ABC):
    """Reads the weights of one kind of foreign network."""

    @abc.abstractmethod
    def read(self, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Imported:
        """The network that `arrays`, named as in PyTorch's state dict, are the weights of.

        `metadata` is what the file says of itself: for a pickled module its `class`, `kwargs` and `modules`
        (see `WeightFile`). Raises `ValueError` naming the kind of network where it is another, the parameters
        that are missing, and arguments that this one does not have.
        """
