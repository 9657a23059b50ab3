"""The surroundings of a step of training, which a loss may look at besides the model it trains."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
from jaxtyping import Array, Int

from scmkit.interfaces.memory import AbstractMemory
from scmkit.interfaces.model import AbstractModel
from scmkit.interfaces.proposal import AbstractProposal
from scmkit.interfaces.tangent import AbstractTangentEstimator
from scmkit.types import Scalar


class Scene(eqx.Module):
    """Everything around one optimizer step. No gradient enters any of it: it is given, not trained.

    **Attributes:**

    - `step`: the optimizer steps that the generator has finished.
    - `progress`: the share of training that is over, in [0, 1).
    - `proposal`: the time proposal of the recipe.
    - `tangent`: the tangent estimator of the recipe.
    - `teacher`: the pretrained model, where there is one.
    - `models`: the current model of every player by name; the one whose samples are wanted is `"generator"`.
    - `followers`: the lagging copies of players that the plugin of the loss declares, by name.
    - `memories`: what is remembered of the data, the step's own batch included, by name.
    """

    step: Int[Array, ""]
    progress: Scalar
    proposal: AbstractProposal
    tangent: AbstractTangentEstimator
    teacher: AbstractModel | None = None
    models: Mapping[str, Any] = eqx.field(default_factory=dict)
    followers: Mapping[str, Any] = eqx.field(default_factory=dict)
    memories: Mapping[str, AbstractMemory] = eqx.field(default_factory=dict)
