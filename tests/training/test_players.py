"""Players, followers and stages: who is updated how often, and that stopping changes nothing."""

import contextlib
import itertools
import json
import shutil
import zlib
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scmkit_plugins.couplings.minibatch_ot import MinibatchOT
from scmkit_plugins.distances.l2 import L2
from scmkit_plugins.methods import ect
from scmkit_plugins.methods._inversion import AtStages
from small_runs import Reporter, go, recipe

from scmkit import Recipe, Run, build, compose
from scmkit.distribution.layout import Layout
from scmkit.distribution.mesh import mesh_of
from scmkit.errors import OptionError, PluginError, UsageError
from scmkit.interfaces import AbstractBatchLoss, LossOutput, Sample
from scmkit.plugin import Slot
from scmkit.runs import checkpoint
from scmkit.training.guarded import Given, guarded
from scmkit.training.packed import pack
from scmkit.training.pipeline import resume
from scmkit.training.setup import (
    Beginning,
    rules_of,
    schedule_of,
    setting_of,
    state_before,
    step_of,
)
from scmkit.training.state import trainable

TINY = {
    "mlp.width": 8,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 4,
    "gmm.size": 64,
    "train.batch_size": 8,
    "train.steps": 8,
    "train.sample_every": 1000,
    "teacher.train.steps": 2,
}


TAUGHT = ("scd", "sct", "ect", "dmd2", "diff-instruct", "progressive-distillation")
"""The methods here that start from a teacher or from its weights."""

TINY_OF_DIFFUSION = {k: v for k, v in TINY.items() if not k.startswith("teacher")}


def tiny(method, **settings):
    base = TINY if method in TAUGHT else None
    return compose([method], (base or TINY_OF_DIFFUSION) | settings, data="gmm")


def stepped(recipe, n, *, loss=None, player=None):
    """The states before and after `n` steps, and the metrics of the last with whether it changed nothing.

    A player may be given another loss.
    """
    parts = build(recipe, key=jr.key(0), teacher=build(tiny("diffusion"), key=jr.key(1)).model)
    if loss is not None:
        players = parts.players | {player: (parts.players[player][0], loss)}
        parts = eqx.tree_at(lambda p: p.players, parts, players)
    copied = jax.tree.map(lambda a: jnp.copy(a) if eqx.is_array(a) else a, parts)
    state, step = pack(state_before(recipe, copied)), guarded(step_of(recipe))
    setting, before, metrics, held = (
        pack(setting_of(parts)),
        [jax.device_get(state.tree)],
        None,
        None,
    )
    for i in range(n):
        batch = Sample(jr.normal(jr.key(i), (8, 1)))
        given = Given(setting, batch, jr.key(7), jnp.zeros((), bool))
        state, metrics, held = step(given, state)
        before.append(jax.device_get(state.tree))
    return before, metrics, held


def counts(state):
    """The updates that each player's optimizer has counted."""
    return {
        name: int(optax.tree.get(player.optimizer_state, "ScaleByAdamState").count)
        for name, player in state.players.items()
    }


def same(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in leaves if eqx.is_array(x))


@pytest.fixture(scope="module")
def instructed():
    """A recipe with a fake score that has three updates, and two steps of its training."""
    recipe = tiny("diff-instruct", **{"diff-instruct.updates": 3, "fake.lr": 1e-2})
    return recipe, stepped(recipe, 2)


def test_a_player_has_its_updates_before_each_of_the_generators(instructed):
    _, (states, metrics, _) = instructed
    assert counts(states[-1]) == {"generator": 2, "fake": 6}
    assert {"fake/loss", "fake/grad_norm"} <= set(metrics.means)


def test_updates_of_a_fake_score_are_plain_steps_of_diffusion(instructed):
    """On the samples of the generator, which stays as it is in the meantime."""
    recipe, ((before, after, _), *_) = instructed
    parts = build(recipe, key=jr.key(0), teacher=build(tiny("diffusion"), key=jr.key(1)).model)
    (before, after) = jax.tree.map(
        lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, (before, after)
    )
    fake, generator = before.players["fake"], before.generator.model
    process, optimizer = generator.process, rules_of(recipe)["fake"].optimizer
    model, moments = fake.model, fake.optimizer_state

    def mean(model, keys):
        def one(key):
            k_x, k_time, k_noise, _ = jr.split(key, 4)
            x = generator.denoise(process.prior((1,), key=k_x), process.t_max)
            t = parts.proposal.sample(process, key=k_time)
            eps = jr.normal(k_noise, (1,))
            v = model.velocity(process.perturb(x, eps, t), t)
            return jnp.mean((v - process.velocity(x, eps, t)) ** 2) / recipe.data.sigma_data**2

        return jnp.mean(jax.vmap(one)(keys))

    gradient = eqx.filter_jit(eqx.filter_grad(mean))
    turns = jr.split(jr.fold_in(jr.fold_in(jr.key(7), 0), zlib.crc32(b"fake")), 3)
    for turn in turns:
        grads = gradient(model, jr.split(turn, 8))
        grads, trained = (grads, fake.loss), trainable((model, fake.loss))
        updates, moments = optimizer.update(trainable(grads), moments, trained)
        model = eqx.apply_updates(model, updates[0])
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        trainable(after.players["fake"].model),
        trainable(model),
    )


def test_a_fault_of_any_player_changes_nothing():
    class Broken(AbstractBatchLoss):
        def __call__(self, model, scene, batch, *, keys):
            x = jax.vmap(model.denoise, in_axes=(0, None))(batch.x0, jnp.asarray(0.5))
            value = jnp.where(scene.step == 1, jnp.nan, jnp.mean(x**2, axis=1))
            return LossOutput(value, {}, jnp.ones(len(value)))

    states, _, held = stepped(tiny("dmd2"), 2, loss=Broken(), player="fake")
    assert not same(states[0].players, states[1].players)
    assert same(states[1], states[2])
    assert held


def test_what_several_players_start_from_is_no_array_of_two():
    """The step donates its state, in which no array may be twice; both may be the teacher's."""
    made = recipe("dmd2", data="digits")
    assembly = build(
        made, key=jr.key(0), teacher=build(recipe("diffusion", data="digits"), key=jr.key(1)).model
    )
    fake = (assembly.model, assembly.players["fake"][1])
    assembly = eqx.tree_at(lambda a: a.players, assembly, assembly.players | {"fake": fake})
    state = Beginning(made, assembly, Layout(mesh_of(None))).state()
    arrays = [leaf for leaf in jax.tree.leaves(state) if eqx.is_array(leaf)]
    assert len({array.unsafe_buffer_pointer() for array in arrays if array.size}) == len(arrays)


def test_the_student_becomes_the_teacher_at_the_end_of_a_stage():
    recipe = tiny("progressive-distillation", **{"progressive-distillation.first": 4})
    assert recipe.stages == (2, 5)
    states, *_ = stepped(recipe, 6)
    teachers = [state.generator.followers["teacher"] for state in states]
    assert same(teachers[0], teachers[1])  # The given teacher, until the first stage ends.
    for end, until in ((2, 5), (5, 7)):
        for n in range(end, until):
            assert same(teachers[n], states[end].generator.model)
    # The optimizer begins anew with each stage, and so does the schedule.
    assert [counts(state)["generator"] for state in states] == [0, 1, 2, 1, 2, 3, 1]
    assert float(schedule_of(recipe)(2)) == pytest.approx(recipe.train.lr / 3)


def test_a_follower_takes_all_at_stages_and_nothing_between():
    gains = [float(AtStages((2, 5)).gain(jnp.asarray(n))) for n in range(1, 7)]
    assert gains == [0, 1, 0, 0, 1, 0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each of two methods, of which every checkpoint is there; both have one teacher."""
    folder = tmp_path_factory.mktemp("runs")
    every = {"train.checkpoint_every": 1, "train.keep": 0}
    runs = {"dmd2": go(tiny("dmd2", **every), folder / "dmd2")}
    given = {k: v for k, v in TINY_OF_DIFFUSION.items() | every.items()}
    taught = compose(
        ["progressive-distillation"], given, data="gmm", teacher=folder / "dmd2/teacher"
    )
    return runs | {"progressive-distillation": go(taught, folder / "pd")}


def stopped(run, step, path):
    """A copy of a run that ended after that step."""
    copy = Run.load(shutil.copytree(run.path, path))
    while copy.step > step:
        shutil.rmtree(checkpoint.latest(copy.checkpoints))
    return copy


@pytest.mark.parametrize("method", ["dmd2", "progressive-distillation"])
def test_resume_is_bit_for_bit(method, trained, tmp_path):
    """From the middle of a stage, or of the fake's and the generator's alternation."""
    run = trained[method]
    again = resume(stopped(run, 3, tmp_path / "r").path, reporter=Reporter())
    assert checkpoint.digest(checkpoint.latest(again.checkpoints)) == run.digest()


@pytest.mark.parametrize(("stop", "steps"), [(6, 16), (3, 4)])
def test_stages_that_have_begun_stay_where_they_are(stop, steps, trained, tmp_path):
    # Of 8 steps they begin at 2, 4 and 6, of 16 at 4, 8 and 12, of 4 at 1, 2 and 3.
    run = stopped(trained["progressive-distillation"], stop, tmp_path / "r")
    with pytest.raises(UsageError, match=r"moves the stages of .* from 2, 4, 6 to"):
        resume(run.path, steps=steps, reporter=Reporter())


def test_stages_that_are_yet_to_begin_move(trained, tmp_path):
    run = stopped(trained["progressive-distillation"], 1, tmp_path / "r")
    assert resume(run.path, steps=12, reporter=Reporter()).recipe.stages == (3, 6, 9)


def test_settings_of_a_player():
    recipe = tiny("dmd2", **{"fake.lr": 3e-6, "train.lr": 1e-5})
    assert (recipe.train.lr, recipe.settings_of("fake").lr) == (1e-5, 3e-6)
    assert recipe.settings_of("fake").ema == "none"
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    with pytest.raises(OptionError, match=r"'fake\.steps': a player has no such setting"):
        tiny("dmd2", **{"fake.steps": 3})
    with pytest.raises(OptionError, match="'critic' is not part of this recipe"):
        tiny("dmd2", **{"critic.lr": 1e-3})


def test_distances_belong_to_losses_that_compare():
    assert tiny("ect").slots[Slot.distance] == "l2"
    assert Slot.distance not in tiny("sct").slots
    huber = compose(["ect", "pseudo-huber"], TINY, data="gmm")
    assert huber.slots[Slot.distance] == "pseudo-huber"
    with pytest.raises(PluginError, match="'sct' compares no samples: leave the distance 'l1' out"):
        compose(["sct", "l1"], TINY, data="gmm")


def test_couplings_belong_to_losses_that_take_their_noise():
    said = "'dmd2' does not look at the noise of a coupling: leave the coupling 'minibatch-ot' out"
    with pytest.raises(PluginError, match=said):
        compose(["dmd2", "minibatch-ot"], TINY, data="gmm")
    assert compose(["ect", "minibatch-ot"], TINY, data="gmm").slots[Slot.coupling] == "minibatch-ot"


@pytest.mark.parametrize(
    ("method", "sampler", "said"),
    [
        ("dmd2", "heun", "'heun' draws from diffusion models, and 'dmd2' makes a generator model"),
        ("dmd2", "pf-ode", "'pf-ode' draws from diffusion and flow-map models"),
        ("tract", "consistency", "'tract' makes a generator model; its own sampler is 'flow-map'"),
        ("consistency-fm", "flow-map", "its own sampler is 'ddim'"),
        ("sct", "ddim", "'sct' makes a consistency model; its own sampler is 'consistency'"),
    ],
)
def test_samplers_are_for_kinds_of_models(method, sampler, said):
    with pytest.raises(PluginError, match=said):
        compose([method, sampler], TINY, data="gmm")


@pytest.mark.parametrize(
    ("method", "tangent", "settings", "refused"),
    [
        ("pid", "sct", {}, True),
        ("dmd2", "ladd", {}, True),
        ("ayf", "sct", {"ayf.objective": "lagrangian"}, True),
        ("ayf", "sct", {}, False),
        ("pid", "scd", {}, False),
    ],
)
def test_the_datas_tangent_is_not_asked_elsewhere(method, tangent, settings, refused):
    recipe = compose([method, f"tangent={tangent}"], TINY_OF_DIFFUSION | settings, data="gmm")
    teacher = build(tiny("diffusion"), key=jr.key(1)).model
    said = f"that of '{tangent}' is known on the paths of data alone"
    with pytest.raises(PluginError, match=said) if refused else contextlib.nullcontext():
        build(recipe, key=jr.key(0), teacher=teacher)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("progressive-distillation", {"first": 6}, "first=6 must be last=1 times a power of two"),
        ("progressive-distillation", {"first": 1, "last": 8}, "first=1 must be last=8 times"),
        ("ect", {"q": 256}, "float32 tells the two times apart no more"),
        ("ect", {"q": 1e300}, "float32 tells"),
    ],
)
def test_options_that_no_training_can_have(method, options, said):
    with pytest.raises(OptionError, match=said):
        tiny(method, **{f"{method}.{name}": value for name, value in options.items()})


def test_the_two_times_of_ect_stay_apart():
    loss = ect.ECTLoss(L2(squared=False), ect.Options(q=256, stages=2))
    for ratio in map(jnp.float32, (1e-4, 0.3, 80.0)):
        gap = 1 - loss.earlier(ratio, jnp.float32(0.99)) / ratio
        wanted = (1 + 8 * jax.nn.sigmoid(-ratio)) / 256**2
        np.testing.assert_allclose(gap, wanted, rtol=0.02)


def test_minibatch_transport_is_optimal():
    batch = Sample(jr.normal(jr.key(0), (5, 3)))
    coupled = MinibatchOT()(batch, key=jr.key(1))
    x, eps = np.asarray(batch.x0), np.asarray(coupled.eps)
    drawn = np.asarray(jr.normal(jr.key(1), (5, 3)))
    assert sorted(map(tuple, eps)) == sorted(map(tuple, drawn))
    costs = [((x - drawn[list(p)]) ** 2).sum() for p in itertools.permutations(range(5))]
    np.testing.assert_allclose(((x - eps) ** 2).sum(), min(costs), rtol=1e-5)


def test_a_coupling_reaches_the_loss():
    recipe = compose(["flow-matching", "diffusion", "minibatch-ot"], TINY_OF_DIFFUSION, data="gmm")
    assert recipe.slots[Slot.coupling] == "minibatch-ot"
    states, *_ = stepped(recipe, 1)
    plain = compose(["flow-matching", "diffusion"], TINY_OF_DIFFUSION, data="gmm")
    assert not same(states[1], stepped(plain, 1)[0][1])


def test_recipes_of_plugin_api_1_are_read():
    """As version 0.1 wrote them."""
    now = tiny("scd").to_json()

    def old(raw):
        role = {"scratch": "none", "weights": "initial", "teacher": "required"}[raw["starts_from"]]
        kept = {k: v for k, v in raw.items() if k not in ("starts_from", "makes", "players_train")}
        config = {k: v for k, v in kept.items() if k != "teacher"}
        teacher = raw["teacher"] and {"recipe": old(raw["teacher"]["recipe"])}
        return config | {"teacher": teacher, "teacher_role": role, "api": 1}

    assert Recipe.from_json(old(now)) == Recipe.from_json(now)
