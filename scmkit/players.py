"""What is trained beside the generator, and what lags behind a player: as plugins declare them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from scmkit.errors import OptionError, brief, did_you_mean
from scmkit.interfaces import AbstractEMA, AnyLoss
from scmkit.settings import PLAYER_OPTIONS, TrainingSettings, configure

Leader = Literal["model", "ema"]
FollowerStart = Literal["model", "teacher"]
PlayerStart = Literal["teacher", "fresh"]


@dataclass(frozen=True)
class Follower:
    """A copy of a player that lags behind it, without gradient: a target network, or the teacher of a stage.

    **Arguments:**

    - `profile`: its `gain` at update number `n` says how much of the new weights is taken. A target network
        has a constant one; "the student becomes the teacher" is a gain of 1 at the first update of a stage
        and 0 elsewhere.
    - `of`: what it follows: the newest `"model"`, or its sampling average `"ema"`.
    - `start`: what it is at first: the `"model"` or the `"teacher"`.
    - `player`: whom it follows.
    """

    profile: AbstractEMA
    of: Leader = "model"
    start: FollowerStart = "model"
    player: str = "generator"

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise TypeError(f"Follower.{fault}")

    def _faults(self) -> Iterator[str]:
        if not isinstance(self.profile, AbstractEMA):
            yield f"profile must be an AbstractEMA, not a {type(self.profile).__name__}"
        yield from not_among("of", self.of, get_args(Leader))
        yield from not_among("start", self.start, get_args(FollowerStart))


@dataclass(frozen=True)
class Player:
    """Something trained beside the generator, such as a fake score or a discriminator.

    **Arguments:**

    - `loss`: the factory of its objective, called as those of slots are.
    - `model`: the factory of its module, called the same way; by default another copy of the recipe's model.
    - `start`: where the weights of such a copy come from: the `"teacher"`, or `"fresh"` ones.
    - `updates`: how often it is updated before each update of the generator.
    - `settings`: training settings of its own (`{"lr": 1e-5}`); the user sets them as `NAME.lr`.
    """

    loss: Callable[..., Any]
    model: Callable[..., Any] | None = None
    start: PlayerStart = "teacher"
    updates: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise TypeError(f"Player.{fault}")

    def _faults(self) -> Iterator[str]:
        # A loss can be called, too, but not as a factory.
        if not callable(self.loss) or isinstance(self.loss, AnyLoss):
            yield f"loss must be a factory of one, not a {type(self.loss).__name__}"
        if not (self.model is None or callable(self.model)):
            yield f"model must be a factory or None, not a {type(self.model).__name__}"
        yield from not_among("start", self.start, get_args(PlayerStart))
        if type(self.updates) is not int or self.updates < 1:
            yield f"updates is {brief(self.updates)}; it must be a whole number of at least 1"
        for name in self.settings:
            yield from not_among("settings: an option", name, PLAYER_OPTIONS)
        try:
            configure(TrainingSettings, self.settings, "NAME")
        except OptionError as error:
            yield f"settings: {error}"


def not_among(what: str, value: object, choices: Collection[Any]) -> Iterator[str]:
    """A sentence where a declared value is none of those allowed."""
    if value not in choices:
        known = [str(choice) for choice in choices]
        hint = did_you_mean(str(value), known)
        yield f"{what} is {brief(value)}{hint} (it must be one of {', '.join(known)})"
