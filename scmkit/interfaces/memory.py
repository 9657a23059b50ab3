"""What a training remembers of its data."""

import abc

import equinox as eqx

from scmkit.interfaces.sample import Sample


class AbstractMemory(eqx.Module):
    """What a training keeps of the samples that it has seen: part of its state, changed by data alone.

    It is never trained, and is in every checkpoint. Losses find it in `Scene.memories`.
    """

    @abc.abstractmethod
    def remember(self, batch: Sample) -> "AbstractMemory":
        """The memory after one more batch, with arrays of the same shapes and dtypes.

        The samples have a leading axis and a standard deviation of `sigma_data`, as losses see them. It is
        called once a step, before anything is trained, on the whole batch whatever `train.accumulate` is.
        """
