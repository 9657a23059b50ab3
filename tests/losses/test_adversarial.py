"""Adversarial terms: their forms, who sees and who is trained, and that without one nothing changes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scenes import scene_for
from scmkit_plugins.methods import _adversarial, ctm, dmd2, ladd
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess

from scmkit import Model, build, compose
from scmkit.errors import PluginError
from scmkit.interfaces import AbstractHiddenNetwork, Sample
from scmkit.training.objective import objective
from scmkit.training.rehearsal import rehearse

PARAM = TrigFlowParameterization(TrigFlowProcess(0.5), 0.5)
TINY = {
    "mlp.width": 8,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 4,
    "train.batch_size": 8,
}


class Shift(AbstractHiddenNetwork):
    """A network whose features are its input, and whose output moves the sample by a number."""

    by: jax.Array

    def __call__(self, x, c_noise, cond, *, key):
        return self.by + 0 * x

    def hidden(self, x, c_noise, cond, *, key):
        return x


class Mean(eqx.Module):
    """A critic that likes what is large."""

    slope: jax.Array

    def __call__(self, hidden):
        return self.slope * jnp.mean(hidden)


def scene(by, slope):
    generator, teacher = (Model(PARAM, Shift(jnp.asarray(b))) for b in (by, 0.0))
    models = {"generator": generator, "critic": Mean(jnp.asarray(slope)), "fake": teacher}
    return generator, scene_for(teacher, teacher=teacher, models=models)


@pytest.mark.parametrize("form", ["hinge", "softplus"])
@pytest.mark.parametrize("seen_by", ["teacher", "fake"])
def test_both_forms_in_closed_form(form, seen_by):
    """A critic of slope 0 says 0 of everything: the losses are 2 and 0, or twice and once log 2."""
    model, given = scene(0.1, 0.0)
    batch, keys = Sample(jnp.full((64, 1), 0.7)), jr.split(jr.key(0), 64)

    def mean(trained):
        return objective(trained, given, batch, keys)[0]

    critic = (given.models["critic"], _adversarial.CriticLoss(form, seen_by))
    value, slope = eqx.filter_value_and_grad(mean)(critic)
    np.testing.assert_allclose(value, 2 if form == "hinge" else 2 * np.log(2), rtol=1e-5)
    assert slope[0].slope < 0  # Data is larger than what is made, so that liking it more is right.
    generator = (model, _adversarial.AdversarialLoss(None, 1.0, form, seen_by))
    value, _ = eqx.filter_value_and_grad(mean)(generator)
    np.testing.assert_allclose(value, 0 if form == "hinge" else np.log(2), atol=1e-6)


def test_the_generator_is_led_to_where_the_critic_likes_it():
    model, given = scene(0.1, 1.0)
    batch, keys = Sample(jnp.zeros((64, 1))), jr.split(jr.key(0), 64)
    loss = _adversarial.AdversarialLoss(None, 1.0, "hinge", "teacher")
    slope, _ = eqx.filter_grad(objective, has_aux=True)((model, loss), given, batch, keys)
    # The critic likes what is large, and the sample grows where the network's output falls.
    assert model.parameterization.coefficients(model.process.t_max).out < 0
    assert slope[0].network.by > 0


def test_without_a_gan_there_is_no_critic():
    for method in (dmd2, ctm):
        recipe = compose([method.plugin.name], TINY, data="gmm")
        assert "critic" not in recipe.players
    recipe = compose(["dmd2"], TINY | {"dmd2.gan": "hinge", "critic.lr": 3e-4}, data="gmm")
    assert recipe.players["critic"].updates == recipe.players["fake"].updates == 5
    assert recipe.settings_of("critic").lr == 3e-4


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (dmd2, {"dmd2.gan": "softplus"}),
        (ctm, {"ctm.gan": "hinge"}),
        (ladd, {"ladd.starts": (1.0, 0.5)}),
    ],
    ids=["dmd2", "ctm", "ladd"],
)
def test_every_player_is_trained_and_the_term_is_logged(method, settings):
    recipe = compose([method.plugin.name], TINY | settings, data="gmm")
    teacher = build(compose(["diffusion"], TINY, data="gmm"), key=jr.key(1)).model
    parts = build(recipe, key=jr.key(0), teacher=teacher)
    modules = {"generator": (parts.model, parts.loss), **parts.players}
    # Fresh networks end in zeros, behind which no gradient arrives.
    modules = jax.tree.map(lambda a: a + 0.1 if eqx.is_inexact_array(a) else a, modules)
    given = scene_for(
        parts.model,
        tangent=parts.tangent,
        proposal=parts.proposal,
        teacher=teacher,
        models={name: module for name, (module, _) in modules.items()},
        followers={"target": modules["generator"][0]},
    )
    batch, keys = Sample(0.5 * jr.normal(jr.key(2), (8, 1))), jr.split(jr.key(3), 8)
    for name in ("generator", "critic"):
        grads, (metrics, _) = eqx.filter_jit(eqx.filter_grad(objective, has_aux=True))(
            modules[name], given, batch, keys
        )
        assert any(jnp.any(g != 0) for g in jax.tree.leaves(grads[0]))
        assert ("critic" in metrics) == (name == "generator")


def test_hidden_features_are_what_the_output_is_made_of():
    model = build(compose(["diffusion"], TINY, data="gmm"), key=jr.key(0)).model
    network = model.network
    x, noise = jnp.ones(1), jnp.ones(1)
    h = network.hidden(x, noise, Sample(x).cond, key=None)
    assert h.shape == (8,)
    out = network(x, noise, Sample(x).cond, key=None)
    np.testing.assert_array_equal(network.last(h), out)
    assert model.hidden(x, jnp.asarray(1.0)).shape == (8,)


def test_a_critic_and_drawn_strengths_of_guidance_are_refused():
    settings = {"dmd2.gan": "hinge", "dmd2.guidance_range": (1.0, 2.0)}
    with pytest.raises(PluginError, match="leave one of the two out"):
        rehearse(compose(["dmd2"], settings, data="digits"))
