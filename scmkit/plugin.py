"""What a plugin is: a name, the slots it fills, and its options."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from typing import Any, Literal

from scmkit.interfaces import (
    AbstractAttention,
    AbstractNoiseProcess,
    AbstractParameterization,
    AbstractProposal,
    AbstractTimeEmbedding,
    DataSpec,
    NormFactory,
)
from scmkit.models.model import Model
from scmkit.settings import TrainingSettings

API_VERSION = 1
"""The plugin API this version of scmkit speaks."""


class Slot(StrEnum):
    """The places a plugin can fill. The first nine have one owner each in a recipe."""

    noise = "noise"
    parameterization = "parameterization"
    proposal = "proposal"
    embedding = "embedding"
    norm = "norm"
    attention = "attention"
    network = "network"
    tangent = "tangent"
    loss = "loss"
    sampler = "sampler"
    dataset = "dataset"
    metric = "metric"
    tracker = "tracker"
    importer = "importer"
    features = "features"


MODEL_SLOTS = (
    Slot.noise,
    Slot.parameterization,
    Slot.embedding,
    Slot.norm,
    Slot.attention,
    Slot.network,
)
"""The slots a model is made of, in the order they are built."""

TRAINING_SLOTS = (Slot.proposal, Slot.tangent, Slot.loss)
"""The slots only training needs, in the order they are built."""


@dataclass(frozen=True)
class NoOptions:
    """The configuration of a plugin without options."""


@dataclass(frozen=True)
class Context:
    """What a factory may build upon: data, slots built before its own, teacher, training settings.

    Slots are built in the order of `MODEL_SLOTS`, then `TRAINING_SLOTS`.
    """

    data: DataSpec
    built: Mapping[Slot, Any] = field(default_factory=dict)
    teacher: Model | None = None
    train: TrainingSettings = field(default_factory=TrainingSettings)
    noise_labels: int = 1
    """Length of the noise-label vector: 1, or 2 for flow maps."""
    conditions: frozenset[str] = frozenset()
    """What the model is told beside time and label: fields of `Conditioning`, such as `"guidance"`."""

    @property
    def guided(self) -> bool:
        """Whether the model is told a guidance strength."""
        return "guidance" in self.conditions

    @property
    def noise(self) -> AbstractNoiseProcess:
        """The noise process."""
        return self.built[Slot.noise]

    @property
    def parameterization(self) -> AbstractParameterization:
        """The parameterization."""
        return self.built[Slot.parameterization]

    @property
    def embedding(self) -> AbstractTimeEmbedding:
        """The time embedding."""
        return self.built[Slot.embedding]

    @property
    def norm(self) -> NormFactory:
        """The norm slot's factory `(channels, dim, *, key) -> AbstractNorm`."""
        return self.built[Slot.norm]

    @property
    def attention(self) -> AbstractAttention:
        """The attention."""
        return self.built[Slot.attention]

    @property
    def proposal(self) -> AbstractProposal:
        """The time proposal."""
        return self.built[Slot.proposal]


Factory = Callable[..., Any]
"""`factory(config, context, *, key)`, returning what fills the slot.

Samplers, data sets, metrics, trackers and importers are part of no model: their factories are called as
`factory(config)`, those of trackers as `factory(config, directory)`, those of features as
`factory(config, dataset, directory)` with a directory for what they derive from the data set.
"""


@dataclass(frozen=True)
class Plugin:
    """A named set of slot fillers; what an entry point in the group `scmkit.plugins` resolves to.

    **Arguments:**

    - `name`: the entry point's name.
    - `summary`: one line for listings.
    - `provides`: for each slot it fills, a factory (see `Factory`).
    - `config`: a frozen dataclass of options with defaults; constraints by `typing.Annotated` with
        `annotated_types` (`Gt(0)`) are checked. Its field docstrings are shown by `plugins info`.
    - `suggests`: plugins for slots that nobody named, such as the sampler that fits a loss.
    - `settings`: recommended settings of other plugins and of training, under the names `--set` takes
        (`"train.lr"`, `"log-normal.mean"`). A data set's win over a loss's, the user's over all.
    - `settings_with`: settings recommended beside a certain loss, by its plugin's name: what a data set
        knows of training on it.
    - `teacher`: whether training starts from a pretrained diffusion model: `"required"` (the tangent
        comes from it too), `"initial"` (only the weights do) or `"none"`.
    - `conditions`: what the model must be told beside time and label, given the plugin's options: fields of
        `Conditioning`. A loss that draws guidance strengths names `"guidance"`.
    - `drops_labels`: whether a model that its loss trained, given the options, also saw samples without
        their label, without which there is nothing for guidance to lead away from.
    - `example`: shape and number of classes of the data that a network is best known for; `plugins info`
        shows its size there.
    - `requires`: importable modules it needs beyond its package's own dependencies, each with the
        command that installs it.
    - `api`: the plugin API it was written for.
    """

    name: str
    summary: str
    provides: Mapping[Slot, Factory]
    config: type = NoOptions
    suggests: Mapping[Slot, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    settings_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teacher: Literal["none", "initial", "required"] = "none"
    conditions: Callable[[Any], Collection[str]] = lambda config: ()
    drops_labels: Callable[[Any], bool] = lambda config: True
    example: tuple[tuple[int, ...], int] | None = None
    requires: Mapping[str, str] = field(default_factory=dict)
    api: int = API_VERSION

    def __post_init__(self) -> None:
        if not self.provides:
            raise TypeError(f"plugin '{self.name}' provides no slot")
        for slot in (*self.provides, *self.suggests):
            if slot not in list(Slot):
                raise TypeError(
                    f"plugin '{self.name}': there is no slot '{slot}' (slots: {', '.join(Slot)})"
                )
        if not (isinstance(self.config, type) and is_dataclass(self.config)):
            raise TypeError(
                f"plugin '{self.name}': config must be a dataclass, not {self.config!r}"
            )
