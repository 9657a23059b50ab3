"""Training objectives."""

import abc
from typing import TYPE_CHECKING

import equinox as eqx
from jaxtyping import Array, Float, Int

from scmkit.interfaces.network import Conditioning
from scmkit.interfaces.tangent import AbstractTangentEstimator
from scmkit.types import Key, Scalar

if TYPE_CHECKING:
    from scmkit.models.model import Model


class LossOutput(eqx.Module):
    """The loss of one sample.

    `value` is differentiated. `metrics` are logged, as means and by noise level, for which `ratio`
    says where the sample stood (`sigma / alpha`).
    """

    value: Scalar
    metrics: dict[str, Scalar]
    ratio: Scalar


class AbstractLoss(eqx.Module):
    """An objective on one sample. Inexact arrays inside it are trained along with the model."""

    @abc.abstractmethod
    def __call__(
        self,
        model: "Model",
        tangent: AbstractTangentEstimator,
        x0: Float[Array, "*shape"],
        cond: Conditioning | None,
        *,
        step: Int[Array, ""],
        key: Key,
    ) -> LossOutput:
        """The loss at `x0`, a clean sample of standard deviation `sigma_data`."""
