"""Couplings: which noise goes with which sample."""

import abc

import equinox as eqx

from scmkit.interfaces.sample import Sample
from scmkit.types import Key


class AbstractCoupling(eqx.Module):
    """Gives each sample of a batch its noise; without a coupling every loss draws its own, independently.

    On paired data (`DataSpec.paired`) the batch comes with the stored noise of each sample as `eps`, to be
    kept, changed or replaced; on other data `eps` is None.
    """

    @abc.abstractmethod
    def __call__(self, batch: Sample, *, key: Key) -> Sample:
        """The batch with `eps`, each of which is N(0, I) on its own."""
