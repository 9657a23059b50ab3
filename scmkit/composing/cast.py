"""The cast of a training, declared by the loss, checked here: who plays, who follows, when stages begin."""

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from scmkit.bounds import LARGEST
from scmkit.composing.conformity import built_by
from scmkit.composing.entries import Entry
from scmkit.errors import OptionError, PluginError, brief, did_you_mean
from scmkit.plugin import Factory, Follower, Player, Plugin
from scmkit.settings import TrainingSettings

GENERATOR = "generator"
"""The player whose samples are wanted."""

SECTIONS = ("train", "data", "teacher")
"""Sections of settings that are neither a plugin's nor a player's."""

MORE = 10_000
"""Steps beyond those asked for, among which is searched for the fewest that a plugin's stages need."""


@dataclass(frozen=True)
class Cast:
    """Who takes part in a training, with certain options and training settings.

    **Arguments:**

    - `players`: what is trained beside the generator, by name.
    - `followers`: what lags behind a player, by name.
    - `memories`: the factories of what is remembered of the data, by name.
    - `stages`: the steps at which a new stage begins.
    """

    players: Mapping[str, Player]
    followers: Mapping[str, Follower]
    memories: Mapping[str, Factory]
    stages: tuple[int, ...]


def own_settings(player: Player) -> dict[str, Any]:
    """The training settings that a player has of its own, where the user says nothing."""
    return {"ema": "none", **player.settings}


def cast_of(
    owner: Entry | str,
    plugin: Plugin,
    config: Any,
    train: TrainingSettings,
    plugins: Collection[str] = (),
) -> Cast:
    """The cast that a plugin declares for its options and a training.

    `owner` is the plugin as errors name it; `plugins` are the names of those in the recipe. Raises
    `PluginError` for what cannot be, and `OptionError` where the stages need more steps.
    """
    players = _declared(owner, "players", "player", Player, partial(plugin.players, config, train))
    followers = _declared(
        owner, "followers", "follower", Follower, partial(plugin.followers, config, train)
    )
    memories = _declared(
        owner, "memories", "memory", Callable, partial(plugin.memories, config, train)
    )
    for fault in (*_misnamed(players, plugins), *_astray(plugin, players, followers)):
        raise PluginError(f"{owner}: {fault}")
    return Cast(players, followers, memories, _stages(owner, plugin, config, train))


def expect_gains(owner: Entry | str, cast: Cast, steps: int) -> None:
    """Raises `PluginError` where a follower's gain is no number in [0, 1] at some update of a training."""
    for name, follower in cast.followers.items():
        leader = cast.players.get(follower.player)
        last = min(steps * (leader.updates if leader else 1), LARGEST)
        for update in sorted({1, min(2, last), *cast.stages, last}):
            ask = partial(follower.profile.gain, jnp.asarray(update, jnp.int32))
            gain = built_by(owner, f"gain of follower '{name}'", object, ask)
            if not (isinstance(gain, jax.Array) and gain.shape == () and 0 <= float(gain) <= 1):
                raise PluginError(
                    f"{owner}: the gain of follower '{name}' is {brief(gain)} at update {update}; "
                    "it must be an array of shape () with a value in [0, 1]"
                )


def _declared(
    owner: Entry | str, plural: str, what: str, kind: Any, make: Callable[[], Any]
) -> Mapping[str, Any]:
    """What a plugin declares by name, each of a kind."""
    found = built_by(owner, plural, Mapping, make)
    for name, given in found.items():
        # Names are those of settings, of metrics and of arrays in a checkpoint.
        if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name)):
            raise PluginError(
                f"{owner}: a {what} is called {brief(name)}; use letters, digits, '_' and '-'"
            )
        built_by(owner, f"{what} '{name}'", kind, lambda given=given: given)
    return found


def _misnamed(players: Mapping[str, Player], plugins: Collection[str]) -> Iterator[str]:
    """What is wrong with the names of players, by which their settings go."""
    for name in players:
        if name in (GENERATOR, *SECTIONS):
            yield f"no player beside the generator may be called '{name}', which has a meaning already"
        if name in plugins:
            yield f"player '{name}' is called as a plugin of this recipe, which has the settings '{name}.*'"


def _astray(
    plugin: Plugin, players: Mapping[str, Player], followers: Mapping[str, Follower]
) -> Iterator[str]:
    """What is wrong with whom followers follow, and from where."""
    known = (GENERATOR, *players)
    for name, follower in followers.items():
        if follower.player not in known:
            yield (
                f"follower '{name}' follows {brief(follower.player)}, which is no player"
                f"{did_you_mean(str(follower.player), known)} (players: {', '.join(known)})"
            )
        elif follower.start == "teacher":
            if plugin.starts_from != "teacher":
                yield (
                    f"follower '{name}' starts as the teacher, but starts_from is "
                    f"'{plugin.starts_from}': there may be none"
                )
            leader = players.get(follower.player)
            if (leader and leader.model) or plugin.noise_labels == 2:
                yield (
                    f"follower '{name}' starts as the teacher, which is another kind of module than "
                    f"the player '{follower.player}' that it follows"
                )


def _stages(
    owner: Entry | str, plugin: Plugin, config: Any, train: TrainingSettings
) -> tuple[int, ...]:
    """The steps at which a new stage begins."""

    def of(steps: int) -> tuple[Any, ...]:
        ask = partial(plugin.stages, config, replace(train, steps=steps))
        return built_by(owner, "stages", tuple, ask)

    stages = of(train.steps)
    if _ascend(stages, train.steps):
        return stages
    more = range(train.steps + 1, train.steps + MORE + 1)
    least = next((steps for steps in more if _ascend(of(steps), steps)), None)
    if least is not None:
        raise OptionError(
            f"{train.steps} steps are too few for the {len(stages) + 1} stages of '{plugin.name}'; "
            f"give at least {least}"
        )
    raise PluginError(
        f"{owner}: its stages begin at {brief(stages)} of {train.steps} steps; these must be whole numbers "
        "that ascend, each above 0 and below the number of steps"
    )


def _ascend(stages: tuple[Any, ...], steps: int) -> bool:
    edges = (0, *stages, steps)
    return all(type(edge) is int for edge in edges) and all(
        before < after for before, after in itertools.pairwise(edges)
    )
