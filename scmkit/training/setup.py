"""From a recipe and its modules to what the training step takes."""

import itertools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import optax

from scmkit.composing.build import Assembly
from scmkit.composing.cast import GENERATOR
from scmkit.composing.recipe import Recipe
from scmkit.distribution.gradient import ByHand
from scmkit.distribution.layout import Layout
from scmkit.training.ema import parse_ema
from scmkit.training.fixed import fixed_of, trained_of
from scmkit.training.optimizer import build_optimizer, learning_rate
from scmkit.training.rules import Rules
from scmkit.training.state import TrainState, initial_player, state_of
from scmkit.training.step import Setting, Step


def stage_length(recipe: Recipe) -> int:
    """The steps of the longest stage, over which every stage's learning-rate schedule runs."""
    edges = (0, *recipe.stages, recipe.train.steps)
    return max(end - start for start, end in itertools.pairwise(edges))


def schedule_of(recipe: Recipe) -> optax.Schedule:
    """The generator's learning rate by steps of a stage."""
    return learning_rate(recipe.train, stage_length(recipe))


def setting_of(assembly: Assembly) -> Setting:
    """The modules of an assembly that every step is given."""
    losses = {GENERATOR: assembly.loss} | {n: loss for n, (_, loss) in assembly.players.items()}
    return Setting(
        assembly.proposal,
        assembly.tangent,
        assembly.teacher,
        assembly.coupling,
        fixed={name: fixed_of(loss) for name, loss in losses.items()},
    )


def rules_of(recipe: Recipe) -> dict[str, Rules]:
    """How each player of a recipe is updated."""
    length, stages = stage_length(recipe), recipe.stages
    rules = {
        GENERATOR: Rules(
            optimizer=build_optimizer(recipe.train, length),
            ema=parse_ema(recipe.train.ema, recipe.train.batch_size),
            followers=_followers(recipe, GENERATOR),
            restarts=stages,
            accumulate=recipe.train.accumulate,
        )
    }
    for name, player in recipe.players.items():
        settings = recipe.settings_of(name)
        rules[name] = Rules(
            optimizer=build_optimizer(settings, length * player.updates),
            ema=parse_ema(settings.ema, settings.batch_size),
            updates=player.updates,
            followers=_followers(recipe, name),
            restarts=stages,
            accumulate=settings.accumulate,
        )
    return rules


def step_of(recipe: Recipe, hands: ByHand | None = None) -> Step:
    """The training step of a recipe, where `hands` are given for arrays that are divided among devices."""
    return Step(rules_of(recipe), recipe.train.steps, hands)


def state_before(recipe: Recipe, assembly: Assembly) -> TrainState:
    """The state before the first step of a recipe, from its modules."""
    modules: Mapping[str, tuple[Any, Any]] = {
        GENERATOR: (assembly.model, assembly.loss),
        **assembly.players,
    }
    rules, players = rules_of(recipe), {}
    for name, (module, loss) in modules.items():
        starts = {
            follower: _weights(assembly.teacher, module) if declared.start == "teacher" else module
            for follower, declared in recipe.followers.items()
            if declared.player == name
        }
        players[name] = initial_player(module, trained_of(loss), rules[name].optimizer, starts)
    return state_of(players, assembly.memories)


class Beginning:
    """The state before the first step of a recipe, in its places on a mesh, as often as it is asked for."""

    def __init__(self, recipe: Recipe, assembly: Assembly, layout: Layout) -> None:
        self._recipe, self._layout = recipe, layout
        # Divided weights are the least to keep; the moments and averages are made of them in their places.
        self._assembly = layout.placed_once(assembly) if layout.divides else assembly

    def state(self) -> TrainState:
        """The state; no other holds its arrays."""
        if not self._layout.divides:
            return self._layout.placed(state_before(self._recipe, self._assembly))

        @eqx.filter_jit
        def made(assembly: Assembly) -> TrainState:
            return self._layout.constrained(state_before(self._recipe, assembly))

        return made(self._assembly)

    def shapes(self) -> TrainState:
        """The shapes of its arrays with their places."""
        state = eqx.filter_eval_shape(state_before, self._recipe, self._assembly)
        return self._layout.like(state)


def _weights(teacher: Any, module: Any) -> Any:
    """A module like another one, with the teacher's arrays; what is no array, such as dropout, may differ."""
    arrays, rest = eqx.partition(module, eqx.is_array)
    theirs = jax.tree.leaves(eqx.filter(teacher, eqx.is_array))
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), theirs), rest)


def _followers(recipe: Recipe, player: str) -> dict[str, Any]:
    return {
        name: (follower.profile, follower.of)
        for name, follower in recipe.followers.items()
        if follower.player == player
    }
