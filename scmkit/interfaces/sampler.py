"""Samplers: from noise to data."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, Int

from scmkit.interfaces.model import AbstractModel
from scmkit.interfaces.network import Conditioning
from scmkit.types import AbstractVar, Key


class SamplerOutput(eqx.Module):
    """A sample and `nfe`, the number of network evaluations it took."""

    x: Float[Array, "*shape"]
    nfe: Int[Array, ""]


class AbstractSampler(eqx.Module):
    """Draws one sample; the caller vmaps."""

    usual_steps: AbstractVar[tuple[int, ...]]
    """The numbers of steps worth showing where nobody asked for any; the first is the default."""
    traces_steps: ClassVar[bool] = False
    """Whether `steps` may be a traced integer, so that one compiled program serves every number."""

    @abc.abstractmethod
    def deterministic(self, steps: int) -> bool:
        """Whether the sample is a function of `noise` alone, without fresh noise on the way."""

    @abc.abstractmethod
    def __call__(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        *,
        steps: int | Int[Array, ""],
        key: Key,
    ) -> SamplerOutput:
        """The sample that `noise`, a draw of `process.prior`, leads to in `steps` steps."""


class AbstractPathSampler(AbstractSampler):
    """A sampler without fresh noise that can tell the states through which it goes."""

    @abc.abstractmethod
    def ratios(self, model: AbstractModel, times: int) -> Float[Array, " times"]:
        """The noise-to-signal ratios of `times` equal steps of its grid, where each ends."""

    @abc.abstractmethod
    def path(
        self,
        model: AbstractModel,
        noise: Float[Array, "*shape"],
        cond: Conditioning,
        *,
        steps: int,
        times: int,
    ) -> Float[Array, "times *shape"]:
        """The states at the `ratios`, in the model's units, the last of which is the sample."""
