"""What plugins declare: a wrong value is named with what is allowed, before there is a run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jaxtyping
import pytest
from fake_distributions import Installer

from scmkit.composing.cast import cast_of, expect_gains
from scmkit.composing.compose import compose
from scmkit.errors import OptionError, PluginError
from scmkit.interfaces import AbstractEMA, AbstractLoss
from scmkit.plugin import Follower, NoOptions, Player, Plugin, Slot
from scmkit.settings import TrainingSettings
from scmkit.testing import checks
from scmkit.training.ema import NoEMA
from scmkit.training.rehearsal import rehearse


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tests' own checks of types, which would be first to refuse what is declared here."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class Gain(AbstractEMA):
    share: Any

    def gain(self, step):
        return self.share


class Loss(AbstractLoss):
    def __call__(self, model, scene, sample, *, key):
        raise NotImplementedError


def part(config, context, *, key):
    raise NotImplementedError


METHOD = Plugin("odd", "a loss", {Slot.loss: part}, makes="diffusion")

WRONG_VALUES = {
    "makes": (lambda: replace(METHOD, makes="consistensy"), "did you mean 'consistency'"),
    "starts_from": (lambda: replace(METHOD, starts_from="techer"), "'techer'.*teacher, weights"),
    "labels": (lambda: replace(METHOD, noise_labels=3), "noise_labels is 3 .*1, 2"),
    "labels of no map": (lambda: replace(METHOD, noise_labels=2), "makes is 'diffusion'"),
    "a map's labels": (lambda: replace(METHOD, makes="flow-map"), "noise_labels is 1"),
    "uses": (lambda: replace(METHOD, uses=("distnce",)), "'distnce'.*distance, coupling"),
    "players": (lambda: replace(METHOD, players={}), "players must be a function.*not a dict"),
    "profile": (lambda: Follower(0.9), "profile must be an AbstractEMA, not a float"),
    "of": (lambda: Follower(NoEMA(), of="emma"), "of is 'emma'; did you mean 'ema'"),
    "follower's start": (lambda: Follower(NoEMA(), start="fresh"), "'fresh'.*model, teacher"),
    "loss": (lambda: Player(Loss()), "loss must be a factory of one, not a Loss"),
    "model": (lambda: Player(part, model=3), "model must be a factory or None, not a int"),
    "player's start": (lambda: Player(part, start="scratch"), "'scratch'.*teacher, fresh"),
    "no updates": (lambda: Player(part, updates=0), "updates is 0; .*at least 1"),
    "half an update": (lambda: Player(part, updates=1.5), "updates is 1.5; .*whole"),
    "option": (lambda: Player(part, settings={"steps": 3}), "'steps' .*optimizer, lr"),
    "option's value": (lambda: Player(part, settings={"lr": -1}), "lr.*-1.*greater than 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_wrong_value_is_refused_where_it_is_declared(case: str) -> None:
    declare, wanted = WRONG_VALUES[case]
    with pytest.raises(TypeError, match=wanted):
        declare()


def players(**given: Any) -> dict[str, Any]:
    return {"players": lambda config, train: given}


def followers(**given: Any) -> dict[str, Any]:
    return {"followers": lambda config, train: given}


def stages(of: Callable[[int], Any]) -> dict[str, Any]:
    return {"stages": lambda config, train: of(train.steps)}


WRONG_CASTS = {
    "no table": ({"players": lambda config, train: None}, "a NoneType as its players"),
    "no player": (players(fake=Loss()), "a Loss as its player 'fake', which is no Player"),
    "the generator": (players(generator=Player(part)), "may be called 'generator'"),
    "training": (players(train=Player(part)), "may be called 'train'"),
    "a plugin": (players(mlp=Player(part)), "player 'mlp' is called as a plugin"),
    "a path": (players(**{"../x": Player(part)}), "'../x'; use letters"),
    "a failure": ({"players": lambda config, train: config.x}, "players: 'NoOptions' object has"),
    "updates": (
        {"players": lambda config, train: {"fake": Player(part, updates=0)}},
        "its players: Player.updates is 0",
    ),
    "no follower": (followers(x=NoEMA()), "a NoEMA as its follower 'x', which is no Follower"),
    "nobody": (
        players(fake=Player(part)) | followers(x=Follower(NoEMA(), player="fkae")),
        "'fkae', which is no player; did you mean 'fake'? (players: generator, fake)",
    ),
    "no teacher": (followers(x=Follower(NoEMA(), start="teacher")), "starts_from is 'scratch'"),
    "another module": (
        {"starts_from": "teacher"}
        | players(disc=Player(part, model=part))
        | followers(x=Follower(NoEMA(), start="teacher", player="disc")),
        "another kind of module than the player 'disc'",
    ),
    "a list": (stages(lambda steps: [2, 4]), "a list as its stages"),
    "a float": (stages(lambda steps: (steps / 2,)), "(3.0,) of 6 steps; these must be whole"),
    "descending": (stages(lambda steps: (4, 2)), "(4, 2) of 6 steps"),
    "the first step": (stages(lambda steps: (0, 2)), "(0, 2) of 6 steps"),
    "the last step": (stages(lambda steps: (steps,)), "(6,) of 6 steps"),
}


@pytest.mark.parametrize("case", WRONG_CASTS)
def test_a_wrong_cast_is_refused(case: str) -> None:
    declared, wanted = WRONG_CASTS[case]
    plugin = replace(METHOD, **declared)
    with pytest.raises(PluginError) as caught:
        cast_of("plugin 'odd' of odd-pack 1.0", plugin, NoOptions(), SIX, ["odd", "mlp"])
    assert "plugin 'odd' of odd-pack 1.0" in str(caught.value)
    assert wanted in str(caught.value)


SIX = TrainingSettings(steps=6)


@pytest.mark.parametrize("share", [2.0, -1.0, float("nan"), [0.5, 0.5], None])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    given = 0.1 if share is None else jnp.asarray(share)  # Python's floats cannot be traced.
    plugin = replace(METHOD, **followers(x=Follower(Gain(given))))
    cast = cast_of("plugin 'odd'", plugin, NoOptions(), SIX)
    with pytest.raises(PluginError, match=r"'odd': the gain of follower 'x' .* at update 1"):
        expect_gains("plugin 'odd'", cast, 6)


@pytest.mark.parametrize(("steps", "of", "least"), [(3, 8, 4), (2, 8, 4), (1, 2, 2), (1, 1024, 11)])
def test_too_few_steps_for_the_stages(steps: int, of: int, least: int) -> None:
    settings = {"train.steps": steps, "progressive-distillation.first": of}
    with pytest.raises(OptionError) as caught:
        compose(["progressive-distillation"], settings, data="gmm")
    assert str(caught.value) == (
        f"{steps} steps are too few for the {least} stages of 'progressive-distillation'; "
        f"give at least {least}"
    )
    recipe = compose(["progressive-distillation"], settings | {"train.steps": least}, data="gmm")
    assert recipe.stages == tuple(range(1, least))


def test_conformance_says_what_is_wrong_with_a_cast() -> None:
    named = {one.name: one for one in checks(replace(METHOD, **followers(x=Follower(Gain(2.0)))))}
    with pytest.raises(PluginError, match=r"the gain of follower 'x' is 2.0"):
        named["plugin/players_followers_and_stages_are_sound"].run()
    # Long trainings alone would not tell.
    few = replace(METHOD, stages=lambda config, train: (max(2, train.steps // 2), 7))
    for plugin in (few, replace(METHOD, **followers(x=Follower(NoEMA(), player="fkae")))):
        named = {one.name: one for one in checks(plugin)}
        for name in (
            "plugin/players_followers_and_stages_are_sound",
            "loss[vector]/the_key_decides",
        ):
            with pytest.raises(
                PluginError, match=r"plugin 'odd': (its stages|follower 'x' follows)"
            ):
                named[name].run()


SOURCE = """
import jax.numpy as jnp
from scmkit.interfaces import AbstractEMA, AbstractLoss, AbstractMemory, LossOutput
from scmkit.plugin import Follower, Plugin, Slot


class Loss(AbstractLoss):
    def __call__(self, model, scene, sample, *, key):
        value = jnp.sum(model.denoise(sample.x0, 0.5) ** 2)
        return LossOutput(value, {"mse": value}, value)


class Gain(AbstractEMA):
    def gain(self, step):
        return jnp.asarray(step, jnp.float32) - 5


class Last(AbstractMemory):
    x: jnp.ndarray

    def remember(self, batch):
        return Last(batch.x0)


provides = {Slot.loss: lambda config, context, *, key: Loss()}
plugin = Plugin("odd", "a loss", provides, makes="diffusion")
"""

DECLARED = 'makes="diffusion"'

WRONG_PLUGINS = {
    "a kind": (DECLARED, 'makes="difusion"', "is broken: TypeError: .*'difusion'; did you mean"),
    "an option": (
        DECLARED,
        DECLARED + ", settings={'train.lrr': 1.0}",
        "recommends what cannot be: 'train' has no option 'lrr'; did you mean 'lr'",
    ),
    "a value": (
        DECLARED,
        DECLARED + ", settings_for={'diffusion': {'mlp.width': -1}}",
        "recommends what cannot be: option 'mlp.width': bad value -1",
    ),
    "a sampler": (
        DECLARED,
        DECLARED + ", suggests={Slot.sampler: 'mlp'}",
        "suggests 'mlp' as sampler: plugin 'mlp' does not fill the slot",
    ),
    "what is not there": (
        DECLARED,
        DECLARED + ", suggests={Slot.network: 'mlpp'}",
        "suggests 'mlpp' as network: no plugin 'mlpp'; did you mean 'mlp'",
    ),
    "a gain": (
        DECLARED,
        DECLARED + ", followers=lambda config, train: {'x': Follower(Gain())}",
        "the gain of follower 'x' is .* at update 1",
    ),
    "a memory": (
        DECLARED,
        DECLARED
        + ", memories=lambda config, train: {'m': lambda *a, key: Last(jnp.zeros((3, 1)))}",
        r"returned float32\(128, 1\) from its memory 'm', which must be float32\(3, 1\)",
    ),
    "no memory": (
        DECLARED,
        DECLARED + ", memories=lambda config, train: {'m': lambda *a, key: Gain()}",
        "built a Gain as its memory 'm', which is no AbstractMemory",
    ),
    "the run's own metric": ("mse", "grad_norm", "a metric called 'grad_norm'"),
    "a metric's name": ("mse", "a/b\\n", "a metric called 'a/b.*letters, digits"),
    "no gradient": (
        "model.denoise",
        "scene.models['generator'].denoise",
        "no gradient of its loss reaches the model",
    ),
}


@pytest.mark.parametrize("case", WRONG_PLUGINS)
def test_a_plugin_is_named_before_there_is_a_run(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong, wanted = WRONG_PLUGINS[case]
    source = SOURCE.replace(right, wrong)
    Installer(tmp_path, monkeypatch)("odd-pack", {"odd": "plugin"}, source=source)
    with pytest.raises(PluginError, match=f"^plugin 'odd' of odd-pack 1.0.*{wanted}"):
        rehearse(compose(["odd"], {"mlp.depth": 1, "train.steps": 6}, data="gmm"))
