"""Frozen features in losses: drifting in features, and what is not trained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from efficientnet_formula import efficientnet as formula
from scenes import scene_for
from scmkit_plugins.features import efficientnet
from scmkit_plugins.features._efficientnet import shapes
from scmkit_plugins.methods.drifting import (
    Drifted,
    DriftingLoss,
    Options,
    against_drift,
    against_one_drift,
    views,
)
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from weights_formula import images, parameter

from scmkit import Model, compose
from scmkit.errors import PluginError, RunError
from scmkit.interfaces import AbstractEncoder, AbstractNetwork, DataSpec, Sample
from scmkit.plugin import Context, Plugin, Slot
from scmkit.testing import checks
from scmkit.training.fixed import check_fixed, fixed_of, noted_fixed, trained_of, whole
from scmkit.training.objective import objective
from scmkit.training.rehearsal import rehearse
from scmkit.weights import write_safetensors

N, SHAPE = 6, (2, 3, 3)


class Affine(AbstractNetwork):
    """As little as a generator may be."""

    scale: jax.Array

    def __call__(self, x, c_noise, cond, *, key):
        return x * self.scale


class Flat(AbstractEncoder):
    """The sample itself, as one vector."""

    def __call__(self, x):
        return (x.ravel(),)


class Positions(AbstractEncoder):
    """A linear map of channels at every position."""

    matrix: jax.Array

    def __call__(self, x):
        return (x.transpose(1, 2, 0) @ self.matrix,)


def model() -> Model:
    parameterization = TrigFlowParameterization(TrigFlowProcess(0.5), 0.5)
    return Model(parameterization, Affine(jr.normal(jr.key(3), SHAPE)), noise_labels=1)


def outcome(encoder):
    """Value, metrics and gradient of drifting on one batch."""
    trained = (model(), DriftingLoss(Options(), encoder))
    batch = Sample(jr.normal(jr.key(0), (N, *SHAPE)))
    loss, fixed = trained_of(trained[1]), fixed_of(trained[1])
    gradient = eqx.filter_jit(eqx.filter_value_and_grad(objective, has_aux=True))
    keys = jr.split(jr.key(1), N)
    (value, (metrics, _)), grads = gradient(
        (trained[0], loss), scene_for(trained[0]), batch, keys, fixed
    )
    return value, metrics, grads[0].network.scale, grads


def test_in_features_that_are_the_sample_drifting_is_that_of_data():
    ours, theirs = outcome(Flat()), outcome(None)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_views_of_a_map_are_its_mean_and_every_position():
    encoder = Positions(jr.normal(jr.key(2), (2, 4)))
    x, data = jr.normal(jr.key(0), (2, N, *SHAPE))
    alike = jnp.ones((N, N), bool)

    def value(x, data):
        return against_one_drift(Drifted(x, data, alike, alike), Options())[0]

    (mean, positions), (mean_data, positions_data) = views(x, encoder), views(data, encoder)
    assert (mean.shape, positions.shape) == ((N, 4), (N, 9, 4))
    np.testing.assert_allclose(mean, positions.mean(1), rtol=1e-6)
    apart = [value(positions[:, i], positions_data[:, i]) for i in range(9)]
    np.testing.assert_allclose(value(positions, positions_data), np.mean(apart, axis=0), rtol=1e-5)
    both = against_drift(Drifted(x, data, alike, alike), Options(), encoder)[0]
    np.testing.assert_allclose(both, value(mean, mean_data) + np.mean(apart, axis=0), rtol=1e-5)
    total = outcome(encoder)[0]
    assert float(total) > 0


def test_the_gradient_flows_through_the_encoder_and_stops_at_its_arrays():
    encoder = Positions(jr.normal(jr.key(2), (2, 4)))
    _, _, scale, grads = outcome(encoder)
    assert bool(jnp.any(scale != 0))
    assert grads[1].encoder.matrix is None
    blind = outcome(Positions(encoder.matrix.at[1].set(0)))[2]
    assert not bool(jnp.any(blind[1]))
    assert bool(jnp.all(blind[0] != 0))


def test_a_loss_is_the_sum_of_its_parts():
    loss = DriftingLoss(Options(), Positions(jnp.ones((2, 4))))
    trained, fixed = trained_of(loss), fixed_of(loss)
    assert jax.tree.leaves(eqx.filter(trained, eqx.is_array)) == []
    assert eqx.tree_equal(whole(trained, fixed), loss)
    plain = DriftingLoss(Options())
    assert fixed_of(plain) is None
    assert trained_of(plain) is not None


def test_a_resumed_run_is_held_to_the_arrays_it_began_with():
    recipe = compose(["ect"], data="digits")
    one, other = (
        fixed_of(DriftingLoss(Options(), Positions(m * jnp.ones((2, 4))))) for m in (1, 2)
    )
    noted = noted_fixed({"generator": one})
    assert noted == noted_fixed({"generator": one}) != noted_fixed({"generator": other})
    assert noted_fixed({"generator": None}) == {}
    check_fixed(recipe, noted, {"loader": {}, **noted})
    check_fixed(recipe, noted, {})  # A checkpoint of before.
    with pytest.raises(RunError, match=r"weights of 'l2' are not those that the run was trained"):
        check_fixed(recipe, noted_fixed({"generator": other}), noted)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_safetensors(path, {n: parameter(n, s) for n, s in shapes().items()}, {})
    return path


def test_the_encoder_of_efficientnet(weights):
    """Its layers are those of the definition, of the image in the data's units."""
    data = DataSpec("x", (1, 8, 8), 0, (-0.2,), (0.4,))
    options = efficientnet.Options(weights=str(weights), side=32)
    encoder = efficientnet.build_encoder(options, Context(data), key=jr.key(0))
    image = images((1, 8, 8)).astype(np.float32) / 127.5 - 1
    found = eqx.filter_jit(encoder)(jnp.asarray((image + 0.2) * 0.4))
    seen = np.asarray(efficientnet.prepared(jnp.asarray(image), 32)).transpose(2, 0, 1)
    *blocks, head = formula({n: parameter(n, s) for n, s in shapes().items()}, seen)
    wanted = [blocks[i].transpose(1, 2, 0) for i in (4, 10, 15)] + [head.mean((1, 2))]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) < 2e-5 * np.linalg.norm(theirs)


def test_it_is_composed_where_a_loss_looks_at_features(weights):
    given = {"efficientnet.weights": str(weights), "efficientnet.side": 32, "train.batch_size": 4}
    small = {"mlp.width": 8, "mlp.depth": 1, "mlp.embedding_dim": 8, "positional.channels": 4}
    recipe = compose(["drifting", "efficientnet", "network=mlp"], given | small, data="digits")
    assert recipe.slots[Slot.encoder] == "efficientnet"
    assert rehearse(recipe) > 0
    with pytest.raises(PluginError, match=r"'sct' does not look at features of samples: leave"):
        compose(["sct", "efficientnet"], given, data="digits")


class Wrong(AbstractEncoder):
    """An encoder, or something wrong."""

    wrong: str

    def __call__(self, x):
        return {
            "list": [x],
            "constant": (jnp.ones(3),),
            "rounded": (jnp.round(x) + jax.lax.stop_gradient(x),),
        }[self.wrong]


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ("list", "layers_are_float32_arrays"),
        ("constant", "samples_are_told_apart"),
        ("rounded", "gradients_are_right"),
    ],
)
def test_what_is_wrong_is_found(wrong, check):
    def build(config, context, *, key):
        return Wrong(wrong)

    found = {c.name: c for c in checks(Plugin("odd", "wrong", {Slot.encoder: build}))}
    with pytest.raises(AssertionError):
        found[f"encoder[image]/{check}"].run()
