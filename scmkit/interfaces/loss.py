"""Training objectives."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from scmkit.interfaces.sample import Sample
from scmkit.interfaces.scene import Scene
from scmkit.types import AbstractVar, Key, Keys


class LossOutput(eqx.Module):
    """The loss of one sample; of a batch, each field with a leading axis.

    `value` is differentiated. `metrics` are logged, as means and by noise level; `ratio` is the sample's
    noise-to-signal ratio `sigma / alpha`, by which they are sorted into levels.
    """

    value: Float[Array, "*batch"]
    metrics: dict[str, Float[Array, "*batch"]]
    ratio: Float[Array, "*batch"]


class AbstractLoss(eqx.Module):
    """An objective on one sample, the usual base: the caller vmaps and takes the mean.

    Inexact arrays inside it are trained along with the model, but for those of distances and encoders.
    """

    @abc.abstractmethod
    def __call__(self, model: Any, scene: Scene, sample: Sample, *, key: Key) -> LossOutput:
        """The loss at a clean sample of standard deviation `sigma_data`.

        `model` is what the loss trains: a `Model`, or the module that a player of the plugin brings.
        """


class AbstractBatchLoss(eqx.Module):
    """An objective on a whole batch, where samples meet or slicing the batch saves work.

    It does not depend on the order of the samples. Inexact arrays inside it are trained as in `AbstractLoss`.
    With `train.accumulate` a batch is a micro-batch.
    """

    @abc.abstractmethod
    def __call__(self, model: Any, scene: Scene, batch: Sample, *, keys: Keys) -> LossOutput:
        """The losses at a batch of clean samples, whose mean is differentiated; each sample has a key."""


class AbstractGroupLoss(eqx.Module):
    """An objective on a group of samples that share what is drawn for them, such as their times.

    A batch is its groups, in the order of its samples: the caller vmaps over them and takes the mean. Inexact
    arrays inside it are trained as in `AbstractLoss`. With `train.accumulate` a batch is a micro-batch.
    """

    group: AbstractVar[int]
    """Samples in a group; a batch that is no whole number of groups is refused."""

    @abc.abstractmethod
    def __call__(self, model: Any, scene: Scene, samples: Sample, *, key: Key) -> LossOutput:
        """The loss of one group, whose clean samples have a leading axis; each of its fields is a scalar."""


AnyLoss = AbstractLoss | AbstractBatchLoss | AbstractGroupLoss
"""What fills the loss slot."""
