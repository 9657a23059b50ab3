"""What a plugin is: a name, the slots it fills, and its options."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from typing import Any, Literal, TypeVar, get_args

from scmkit.interfaces import (
    AbstractAttention,
    AbstractDistance,
    AbstractEncoder,
    AbstractModel,
    AbstractNetwork,
    AbstractNoiseProcess,
    AbstractParameterization,
    AbstractProposal,
    AbstractTimeEmbedding,
    DataSpec,
    NormFactory,
)
from scmkit.kinds import WITH_VELOCITY as WITH_VELOCITY
from scmkit.kinds import Makes as Makes
from scmkit.kinds import StartsFrom as StartsFrom
from scmkit.players import Follower as Follower
from scmkit.players import Player as Player
from scmkit.players import not_among
from scmkit.settings import TrainingSettings

API_VERSION = 2
"""The plugin API this version of scmkit speaks."""


class Slot(StrEnum):
    """The places a plugin can fill. The first twelve have one owner each in a recipe."""

    noise = "noise"
    parameterization = "parameterization"
    proposal = "proposal"
    embedding = "embedding"
    norm = "norm"
    attention = "attention"
    network = "network"
    encoder = "encoder"
    distance = "distance"
    coupling = "coupling"
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

TRAINING_SLOTS = (
    Slot.proposal,
    Slot.encoder,
    Slot.distance,
    Slot.coupling,
    Slot.tangent,
    Slot.loss,
)
"""The slots only training needs, in the order they are built."""

OPTIONAL_SLOTS = (Slot.encoder, Slot.distance, Slot.coupling)
"""The slots of a recipe that may be empty: not every loss compares samples, and few look at features of them
or couple noise to data."""


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
    teacher: AbstractModel | None = None
    train: TrainingSettings = field(default_factory=TrainingSettings)
    noise_labels: int = 1
    """Length of the noise-label vector: 1, or 2 for flow maps."""
    conditions: frozenset[str] = frozenset()
    """Scalars that the model is told beside time and label, by name, such as `"guidance"`."""

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
    def network(self) -> AbstractNetwork:
        """The network of the recipe's model, with fresh weights: a player may ask for its shapes."""
        return self.built[Slot.network]

    @property
    def encoder(self) -> AbstractEncoder | None:
        """The features through which a loss looks at samples; None where the recipe names none."""
        return self.built.get(Slot.encoder)

    @property
    def distance(self) -> AbstractDistance:
        """The distance by which a loss compares samples."""
        return self.built[Slot.distance]

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


C = TypeVar("C")


def itself(config: C, *args: Any, **kwargs: Any) -> C:
    """The factory of a plugin whose `config` is the class that fills the slot: its fields are the options."""
    return config


@dataclass(frozen=True)
class Plugin:
    """A named set of slot fillers; what an entry point in the group `scmkit.plugins` resolves to.

    **Arguments:**

    - `name`: the entry point's name.
    - `summary`: one line for listings.
    - `provides`: for each slot it fills, a factory (see `Factory`).
    - `config`: a frozen dataclass of options with defaults, or the Equinox module that fills the slot, its
        factory then `itself`; constraints by `typing.Annotated` with `annotated_types` (`Gt(0)`) are
        checked. Its field docstrings are shown by `plugins info`.
    - `suggests`: plugins for slots that nobody named, such as the sampler that fits a loss.
    - `settings`: recommended settings of other plugins and of training, as `--set` names them (`"train.lr"`),
        or a function of its options that returns them. A data set's win over a loss's, the user's over all.
    - `settings_for`: the same by the kind of model that is trained, or by the plugin whose loss trains it,
        which wins: what a data set knows of training on it.
    - `makes`: the kind of model that its loss leaves behind; every plugin that fills the loss slot says it.
    - `samples_from`: the kinds of model that its sampler draws from.
    - `starts_from`: whether training needs a teacher, takes only its weights, or starts from scratch.
    - `taught_by`: the kinds of model that a teacher it needs may be, given the options: by default those with
        a velocity.
    - `noise_labels`: times the model is told: 2 for flow maps.
    - `conditions`: what the model must be told beside time and label, given the plugin's options: names of
        scalars in `Conditioning`. A loss that draws guidance strengths names `"guidance"`.
    - `drops_labels`: whether a model that its loss trained, given the options, also saw samples without
        their label, without which there is nothing for guidance to lead away from.
    - `off_path`: whether its loss, given the options, asks for the tangent at points of the model's own
        making, where data never come by. A tangent that is `of_data` is then refused.
    - `differentiates`: whether its loss differentiates the network in time, exactly or by differences.
    - `normalizes`: of a loss or distance that divides residuals by their size, given the options: what to add
        to a command to have it otherwise, such as `"--set l2.squared=true"`.
    - `uses`: the optional slots that its loss looks at: `Slot.distance`, where it compares samples,
        `Slot.encoder`, where it looks at features of them if there are any, and `Slot.coupling`, where the
        noise of a sample is its own if it has any, as `noised` takes it.
    - `players`, `followers`: `(config, train)` -> what is trained beside the generator and what lags behind,
        by name. The name `"generator"` is taken.
    - `memories`: `(config, train)` -> the factories of what is remembered of the data, each an
        `AbstractMemory`, by name.
    - `stages`: `(config, train)` -> the steps, ascending, at which a new stage begins: the optimizer and its
        learning-rate schedule start anew.
    - `example`: shape and number of classes of a network's best-known data, for its size in `plugins info`.
    - `requires`: modules it needs beyond its package's dependencies, each with the command that installs it.
    - `api`: the plugin API it was written for.
    """

    name: str
    summary: str
    provides: Mapping[Slot, Factory]
    config: type = NoOptions
    suggests: Mapping[Slot, str] = field(default_factory=dict)
    settings: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] = field(default_factory=dict)
    settings_for: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    makes: Makes | None = None
    samples_from: Collection[Makes] = get_args(Makes)
    starts_from: StartsFrom = "scratch"
    taught_by: Callable[[Any], Collection[Makes]] = lambda config: WITH_VELOCITY
    noise_labels: Literal[1, 2] = 1
    conditions: Callable[[Any], Collection[str]] = lambda config: ()
    drops_labels: Callable[[Any], bool] = lambda config: True
    off_path: Callable[[Any], bool] = lambda config: False
    differentiates: bool = False
    normalizes: Callable[[Any], str] = lambda config: ""
    uses: Collection[Slot] = ()
    players: Callable[[Any, TrainingSettings], Mapping[str, Player]] = lambda config, train: {}
    followers: Callable[[Any, TrainingSettings], Mapping[str, Follower]] = lambda config, train: {}
    memories: Callable[[Any, TrainingSettings], Mapping[str, Factory]] = lambda config, train: {}
    stages: Callable[[Any, TrainingSettings], tuple[int, ...]] = lambda config, train: ()
    example: tuple[tuple[int, ...], int] | None = None
    requires: Mapping[str, str] = field(default_factory=dict)
    api: int = API_VERSION

    def __post_init__(self) -> None:
        for fault in _faults(self):
            raise TypeError(f"plugin '{self.name}': {fault}")


def _faults(plugin: Plugin) -> Iterator[str]:
    """What is wrong with a declaration."""
    if not plugin.provides:
        yield "it provides no slot"
    for slot in (*plugin.provides, *plugin.suggests):
        if slot not in list(Slot):
            yield f"there is no slot '{slot}' (slots: {', '.join(Slot)})"
    if not (isinstance(plugin.config, type) and is_dataclass(plugin.config)):
        yield f"config must be a dataclass, not {plugin.config!r}"
    if (Slot.loss in plugin.provides) != (plugin.makes is not None):
        yield (
            "a plugin that fills the loss slot says what it makes, and no other "
            f"(one of {', '.join(get_args(Makes))})"
        )
    if plugin.makes is not None:
        yield from not_among("makes", plugin.makes, get_args(Makes))
    for slot in plugin.uses:
        yield from not_among("uses: a slot", slot, OPTIONAL_SLOTS)
    yield from not_among("starts_from", plugin.starts_from, get_args(StartsFrom))
    yield from not_among("noise_labels", plugin.noise_labels, (1, 2))
    needed = {"flow-map": 2, "diffusion": 1, None: 1}.get(plugin.makes, plugin.noise_labels)
    if plugin.noise_labels != needed:
        yield (
            f"noise_labels is {plugin.noise_labels} and makes is {plugin.makes!r}: a flow map is told both "
            "ends of a jump, a diffusion model one time"
        )
    for name in (
        "taught_by",
        "conditions",
        "drops_labels",
        "off_path",
        "normalizes",
        "players",
        "followers",
        "memories",
        "stages",
    ):
        if not callable(given := getattr(plugin, name)):
            yield f"{name} must be a function of the options, not a {type(given).__name__}"
