"""Who takes part in a method's training: players, followers, memories and stages, as a picture of text."""

import inspect
from typing import Any

from scmkit.plugin import Follower, Player, Plugin
from scmkit.settings import TrainingSettings
from scmkit_cli.terminal import say

WIDEST = 12
"""Updates of a turn that are drawn one by one."""


def print_players(plugin: Plugin, config: Any, train: TrainingSettings) -> None:
    """A line each: of a player its updates in a turn, of a follower whom it follows; memories and stages.

    Nothing for a method that trains its model alone, in one stage.
    """
    players, followers = plugin.players(config, train), plugin.followers(config, train)
    memories, stages = plugin.memories(config, train), plugin.stages(config, train)
    if not (players or followers or memories or stages):
        return
    rows = [(name, _updates(player.updates), _player(player)) for name, player in players.items()]
    rows.append(("generator", _updates(1), f"the model, {_beginning(plugin)}"))
    rows += [(name, "~", _follower(follower)) for name, follower in followers.items()]
    rows += [(name, "+", "remembers data, changed by every batch") for name in memories]
    if stages:
        ends = (0, *stages, train.steps)
        rows.append(("stages", "|", " -- ".join(map(str, ends)) + ", the optimizer new in each"))
    names, bars = (max(len(row[i]) for row in rows) for i in (0, 1))
    say(f"plays ({train.steps} turns, an update each *):")
    for name, bar, about in rows:
        say(f"  {name:<{names}}  {bar:<{bars}}  {about}")


def _updates(count: int) -> str:
    return "*" * count if count <= WIDEST else f"*...* ({count})"


def _beginning(plugin: Plugin) -> str:
    return (
        "which starts fresh" if plugin.starts_from == "scratch" else "which starts as the teacher"
    )


def _player(player: Player) -> str:
    if player.model is not None:
        about = "a module of its own"
    elif player.start == "teacher":
        about = "another copy of the model, which starts as the teacher"
    else:
        about = "another copy of the model, which starts fresh"
    own = ", ".join(f"{name}={value}" for name, value in player.settings.items())
    return f"{about}; {own}" if own else about


def _follower(follower: Follower) -> str:
    of = "newest weights" if follower.of == "model" else "averaged weights"
    start = "teacher" if follower.start == "teacher" else "model"
    lag = (inspect.getdoc(type(follower.profile)) or "").split("\n\n")[0].rstrip(".")
    behind = f": {lag[:1].lower()}{lag[1:]}" if lag else ""
    return f"follows the {follower.player}'s {of}, starts as the {start}{behind}"
