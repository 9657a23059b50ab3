"""Decoupled networks: one embedding of time, told where a jump starts and then where it ends."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.layers.normalize import rms_norm
from scmkit_plugins.networks.mlp import MLP

from scmkit import Conditioning, build_model, compose
from scmkit.errors import PluginError
from scmkit.interfaces import DataSpec
from scmkit.models.model import Model
from scmkit.testing.numeric import jittered
from scmkit.training.start import weights_from

UNET: dict[str, Any] = {"channels": 8, "multipliers": (1,), "blocks": 1}
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"width": 16, "depth": 2, "embedding_dim": 16, "decoupled": 1},
    "dit": {"width": 16, "depth": 3, "heads": 2, "patch": 2, "decoupled": 1},
    "unet": UNET | {"attention_resolutions": (), "head_dim": 8, "decoupled": True},
    "edm2": UNET | {"attention_resolutions": (), "head_dim": 8, "decoupled": True},
    "ddpmpp": UNET | {"attention_resolutions": (), "dropout": 0.0, "decoupled": True},
}
DATA = DataSpec("test", (2, 4, 4), 3, (0.0, 0.0), (1.0, 1.0))
T, LABEL = 0.8, Conditioning(jnp.asarray(1))


def model_of(network: str, method: str, **options: Any) -> Model:
    settings = {f"{network}.{k}": v for k, v in (SMALL[network] | options).items()}
    recipe = compose(["flow-matching", network, method], settings, data=DATA)
    return build_model(recipe, key=jr.key(0))


@eqx.filter_jit
def raw(model: Model, x, t, s):
    return model.raw(x, t, LABEL, s=s)


@pytest.mark.parametrize("network", SMALL)
def test_a_jump_to_its_start_is_the_teacher_and_needs_no_new_weights(network, getkey):
    teacher = jittered(model_of(network, "diffusion"))
    x = jr.normal(getkey(), DATA.shape)
    student = weights_from(teacher, model_of(network, "meanflow"))
    assert student is not None
    arrays = [jax.tree.leaves(eqx.filter(m, eqx.is_array)) for m in (teacher, student)]
    assert [a.shape for a in arrays[0]] == [a.shape for a in arrays[1]]
    due = raw(teacher, x, T, None)
    np.testing.assert_array_equal(raw(student, x, T, T), due)
    for t, s in ((T, 0.2), (0.5, 0.5)):
        assert np.abs(raw(student, x, t, s) - due).max() > 1e-2 * np.abs(due).max()


def test_without_it_a_jump_begins_as_the_teachers_to_wherever_it_ends(getkey):
    teacher = jittered(model_of("mlp", "diffusion", decoupled=0))
    student = weights_from(teacher, model_of("mlp", "meanflow", decoupled=0))
    assert student is not None
    x = jr.normal(getkey(), DATA.shape)
    np.testing.assert_allclose(raw(student, x, T, 0.2), raw(teacher, x, T, None), atol=1e-6)


def test_the_last_blocks_alone_are_told_the_end(getkey):
    network = jittered(model_of("mlp", "meanflow")).network
    assert isinstance(network, MLP)
    x = jr.normal(getkey(), DATA.shape)
    start, end = (network.conditioning(jnp.asarray([c]), LABEL) for c in (0.8, 0.3))
    h = network.first(x.ravel())
    h = network.blocks[1](network.blocks[0](h, start, key=None), end, key=None)
    due = network.last(rms_norm(h)).reshape(x.shape)
    np.testing.assert_allclose(network(x, jnp.asarray([0.8, 0.3]), LABEL, key=None), due, atol=1e-5)


@pytest.mark.parametrize("network", ["mlp", "dit"])
def test_a_block_is_left_that_is_told_the_start(network):
    depth = SMALL[network]["depth"]
    with pytest.raises(PluginError, match=f"set {network}.decoupled to less than {depth}"):
        model_of(network, "meanflow", decoupled=depth)
