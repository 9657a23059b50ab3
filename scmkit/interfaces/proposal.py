"""Time proposals: which noise levels training visits."""

import abc

import equinox as eqx

from scmkit.interfaces.noise import AbstractNoiseProcess
from scmkit.types import Key, Scalar


class AbstractProposal(eqx.Module):
    """A distribution over times, given the process whose times they are."""

    @abc.abstractmethod
    def sample(self, process: AbstractNoiseProcess, *, key: Key) -> Scalar:
        """One time in `(0, t_max]`, float32."""
