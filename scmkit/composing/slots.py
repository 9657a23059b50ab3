"""The table of slots: what each holds, which plugin fills it by default, and how it is asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import UnionType
from typing import Literal, get_args

from scmkit.interfaces import (
    AbstractAttention,
    AbstractCoupling,
    AbstractDataset,
    AbstractDistance,
    AbstractEncoder,
    AbstractFeatures,
    AbstractImporter,
    AbstractMetric,
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractParameterization,
    AbstractProposal,
    AbstractSampler,
    AbstractTangentEstimator,
    AbstractTimeEmbedding,
    AbstractTracker,
    AnyLoss,
    NormFactory,
)
from scmkit.plugin import MODEL_SLOTS, OPTIONAL_SLOTS, TRAINING_SLOTS, Makes, Plugin, Slot

RECIPE_SLOTS = (*MODEL_SLOTS, *TRAINING_SLOTS)
"""The slots that a recipe fills with one plugin each, in the order they are built."""

Stage = Literal["model", "training", "run", "outside"]
"""What a slot is a part of: the model, what trains it, the run that a recipe describes beside both (its
sampler and trackers), or none of these."""


def default_network(shape: tuple[int, ...]) -> str:
    """The network for samples of a shape: `unet` for images of more than 256 values, else `mlp`."""
    return "unet" if len(shape) == 3 and prod(shape) > 256 else "mlp"


@dataclass(frozen=True)
class SlotRow:
    """One slot.

    **Arguments:**

    - `slot`: the slot's name.
    - `holds`: the class of which its factories return an instance.
    - `default`: the plugin that fills it where nobody named one, or a function that gives the plugin for
        samples of a shape; None for a slot that then stays empty.
    - `asked`: how to ask for plugin `{}` where the slot is no part of a recipe's plugins.
    """

    slot: Slot
    holds: type | UnionType
    default: str | Callable[[tuple[int, ...]], str] | None = None
    asked: str | None = None

    @property
    def stage(self) -> Stage:
        """What the slot is a part of."""
        if self.slot in MODEL_SLOTS:
            return "model"
        if self.slot in TRAINING_SLOTS:
            return "training"
        return "run" if self.asked is None else "outside"

    @property
    def optional(self) -> bool:
        """Whether a recipe may leave the slot empty."""
        return self.slot not in RECIPE_SLOTS or self.slot in OPTIONAL_SLOTS

    def default_for(self, shape: tuple[int, ...]) -> str | None:
        """The plugin that fills the slot where nobody named one, for samples of a shape."""
        return self.default(shape) if callable(self.default) else self.default


SLOTS: Mapping[Slot, SlotRow] = {
    row.slot: row
    for row in (
        SlotRow(Slot.noise, AbstractNoiseProcess, "trigflow"),
        SlotRow(Slot.parameterization, AbstractParameterization, "preconditioned"),
        SlotRow(Slot.embedding, AbstractTimeEmbedding, "positional"),
        SlotRow(Slot.norm, NormFactory, "adaptive-double-norm"),
        SlotRow(Slot.attention, AbstractAttention, "xla-attention"),
        SlotRow(Slot.network, AbstractNetwork, default_network),
        SlotRow(Slot.proposal, AbstractProposal, "log-normal"),
        SlotRow(Slot.encoder, AbstractEncoder),
        SlotRow(Slot.distance, AbstractDistance, "l2"),
        SlotRow(Slot.coupling, AbstractCoupling),
        SlotRow(Slot.tangent, AbstractTangentEstimator, "sct"),
        SlotRow(Slot.loss, AnyLoss, "sct"),
        SlotRow(Slot.sampler, AbstractSampler),
        SlotRow(Slot.tracker, AbstractTracker),
        SlotRow(Slot.dataset, AbstractDataset, asked="--data {}"),
        SlotRow(Slot.metric, AbstractMetric, asked="`scmkit eval RUN --metric {}`"),
        SlotRow(Slot.importer, AbstractImporter, asked="`scmkit convert {} FILE DEST`"),
        SlotRow(Slot.features, AbstractFeatures, asked="`scmkit eval RUN --features {}`"),
    )
}
"""Every slot. A plugin that fills several slots outside a recipe is asked for as the first of them says."""


USUAL_SAMPLERS: Mapping[Makes, str] = {
    "diffusion": "pf-ode",
    "consistency": "consistency",
    "flow-map": "flow-map",
    "generator": "consistency",
}
"""The sampler of each kind of model, where none was named or suggested that draws from it."""


def own_sampler(loss: Plugin) -> str:
    """The sampler that a loss suggests for its models, or the usual one of their kind."""
    assert loss.makes is not None, "a plugin that fills the loss slot says what it makes"
    return loss.suggests.get(Slot.sampler, USUAL_SAMPLERS[loss.makes])


def draws_from(name: str, sampler: Plugin, loss: Plugin) -> bool:
    """Whether the sampler of plugin `name` draws from the models of a loss."""
    # A loss's plugin knows what draws from its own models: of a generator, nobody else does.
    return loss.makes in sampler.samples_from or name == own_sampler(loss)


def class_name(holds: type | UnionType) -> str:
    """The name of a class, or of each of a union."""
    kinds = get_args(holds) if isinstance(holds, UnionType) else (holds,)
    return " or ".join(kind.__name__ for kind in kinds)
