"""EDM2's network: published sizes, magnitudes, forced normalization, and its original's figures."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.layers.magnitude import (
    MPLayer,
    mp_cat,
    mp_pixel_norm,
    mp_silu,
    mp_sum,
    normalised,
)
from scmkit_plugins.networks.edm2 import EDM2

from scmkit import Conditioning, build_model, compose, count_parameters
from scmkit.interfaces import UNCONDITIONED, DataSpec, constrain
from scmkit.testing.numeric import jittered

PUBLISHED = {"xs": 125e6, "s": 280e6, "m": 498e6, "l": 778e6, "xl": 1.12e9, "xxl": 1.52e9}
"""Parameters by preset (arXiv 2312.02696, Table 2; the same in arXiv 2410.11081, Table 2)."""
ORIGINAL = ("edm", "fourier", "mp-gain", "edm2", "diffusion")
SCM = ("trigflow", "edm2", "sct")
SMALL = {"edm2.channels": 8, "edm2.blocks": 1, "edm2.multipliers": (1, 2), "edm2.head_dim": 8}
SMALL |= {"edm2.attention_resolutions": (4,)}


def data(channels=3, side=64, classes=1000):
    return DataSpec("none", (channels, side, side), classes, (0.0,) * channels, (1.0,) * channels)


@pytest.mark.parametrize("plugins", [ORIGINAL, SCM], ids=["edm2", "scm"])
@pytest.mark.parametrize(
    "channels",
    [pytest.param(3, id="pixels"), pytest.param(4, id="latents", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_parameter_counts(preset, channels, plugins):
    recipe = compose(plugins, {"edm2.preset": preset}, data=data(channels))
    assert count_parameters(recipe) == pytest.approx(PUBLISHED[preset], rel=0.01)


def small(*plugins, **given):
    spec = data(side=8, classes=4)
    recipe = compose(plugins or SCM, SMALL | given, data=spec)
    model = build_model(recipe, key=jr.key(0))
    assert isinstance(model.network, EDM2)
    return model


@eqx.filter_jit
def run(model, x, t, cond=UNCONDITIONED, key=None):
    return model.raw(x, t, cond, key=key)


def test_every_layer_preserves_magnitudes():
    """Unit RMS in, unit RMS out, at initialisation, within what few channels leave to chance."""
    k_x, k_w, k_y = jr.split(jr.key(0), 3)
    x, y = jr.normal(k_x, (16, 16, 64)), jr.normal(k_y, (16, 16, 32))

    def rms(a):
        return float(jnp.sqrt(jnp.mean(a**2)))

    assert rms(MPLayer(64, 128, key=k_w)(x)) == pytest.approx(1, abs=0.03)
    inner = MPLayer(64, 128, 3, key=k_w)(x)[1:-1, 1:-1]  # The border sees padding.
    assert rms(inner) == pytest.approx(1, abs=0.03)
    assert rms(mp_silu(x)) == pytest.approx(1, abs=0.01)
    assert rms(mp_sum(x[..., :32], y, 0.3)) == pytest.approx(1, abs=0.01)
    assert rms(mp_cat(x, y)) == pytest.approx(1, abs=0.01)
    both = mp_cat(mp_pixel_norm(x), mp_pixel_norm(y))
    powers = [float(jnp.sum(half**2)) for half in (both[..., :64], both[..., 64:])]
    assert powers[0] == pytest.approx(powers[1], rel=1e-3)
    np.testing.assert_allclose(jnp.mean(mp_pixel_norm(3 * x) ** 2, axis=-1), 1, atol=1e-3)


def test_weights_are_used_normalised_whatever_their_scale():
    layer, x = MPLayer(6, 5, 3, key=jr.key(0)), jr.normal(jr.key(1), (4, 4, 6))
    larger = eqx.tree_at(lambda m: m.weight, layer, 50 * layer.weight)
    np.testing.assert_allclose(larger(x), layer(x), rtol=1e-3, atol=1e-4)


def test_the_optimizer_step_forces_normalised_weights_and_nothing_else_does():
    model = jittered(small(), 0.5)
    forced = eqx.filter_jit(constrain)(model)
    layers = jax.tree.leaves(forced, is_leaf=lambda m: isinstance(m, MPLayer))
    layers = [m for m in layers if isinstance(m, MPLayer)]
    assert len(layers) > 20
    for layer in layers:
        weight = np.asarray(layer.weight)
        mean_square = np.mean(weight**2, axis=tuple(range(weight.ndim - 1)))
        np.testing.assert_allclose(mean_square, 1, atol=1e-3)
    x, t = jr.normal(jr.key(1), (3, 8, 8)), jnp.asarray(0.7)
    before = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    out = run(model, x, t)
    # What the layers compute is unchanged up to the 1e-4 in the normalization.
    np.testing.assert_allclose(run(forced, x, t), out, rtol=5e-3, atol=5e-3)
    assert all(
        a is b
        for a, b in zip(before, jax.tree.leaves(eqx.filter(model, eqx.is_array)), strict=True)
    )
    assert forced.network.gain == model.network.gain


def test_a_zero_pixel_has_a_finite_derivative():
    for value in (jnp.zeros(4), jnp.asarray([0.0, 0.0, 1e-30, 0.0])):
        out, slope = jax.jvp(mp_pixel_norm, (value,), (jnp.ones(4),))
        assert np.isfinite(out).all()
        assert np.isfinite(slope).all()
    np.testing.assert_allclose(normalised(jnp.zeros((3, 2))), 0)


def test_no_label_is_a_zero_class_vector():
    model = jittered(small())
    x, t = jr.normal(jr.key(1), (3, 8, 8)), jnp.asarray(0.7)
    absent = run(model, x, t)
    np.testing.assert_allclose(run(model, x, t, Conditioning(None)), absent, atol=1e-5)
    np.testing.assert_allclose(run(model, x, t, Conditioning(jnp.asarray(4))), absent, atol=1e-5)
    assert jnp.abs(run(model, x, t, Conditioning(jnp.asarray(1))) - absent).max() > 1e-3
    network = model.network
    emb = network.conditioning(jnp.asarray([0.7]), Conditioning(jnp.asarray(2)))
    one_hot = 2.0 * jax.nn.one_hot(2, 4)  # The square root of four classes.
    label = network.conditioning.label(one_hot)
    time = network.conditioning.time(network.conditioning.embedding(jnp.asarray([0.7])))
    np.testing.assert_allclose(emb, mp_silu(mp_sum(time, label, 0.5)), rtol=1e-5, atol=1e-6)


def test_features_are_dropped_at_low_resolutions_only():
    x, t, key = jr.normal(jr.key(1), (3, 8, 8)), jnp.asarray(0.7), jr.key(2)
    # At height 4: one block that halves, one beside it, and four of the decoder.
    for bound, blocks in ((2, 0), (4, 6), (8, 10)):
        given = {"edm2.dropout": 0.5, "edm2.dropout_resolution": bound}
        model = jittered(small(**given))
        network = model.network
        rates = [block.dropout for block in (*network.encoder, *network.decoder)]
        assert rates.count(0.5) == blocks
        if bound < 8:
            changed = jnp.abs(run(model, x, t, key=key) - run(model, x, t)).max() > 1e-4
            assert bool(changed) == (bound > 2)


@pytest.mark.slow
def test_rematerialisation_changes_nothing():
    x, t = jr.normal(jr.key(1), (3, 8, 8)), jnp.asarray(0.7)

    def gradient(model):
        return eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(run(m, x, t) ** 2)))(model)

    plain, remat = (gradient(jittered(small(**{"edm2.remat": r}))) for r in ("none", "full"))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_bfloat16_keeps_weights_and_time_in_float32():
    model = jittered(small(**{"train.precision": "bfloat16"}))
    x, t = jr.normal(jr.key(1), (3, 8, 8)), jnp.asarray(0.7)
    assert {a.dtype.name for a in jax.tree.leaves(eqx.filter(model, eqx.is_array))} == {"float32"}
    low, slope = jax.jvp(lambda t: run(model, x, t), (t,), (jnp.ones(()),))
    high, exact = jax.jvp(lambda t: run(jittered(small()), x, t), (t,), (jnp.ones(()),))
    assert low.dtype == jnp.float32
    assert 1e-4 < np.linalg.norm(low - high) / np.linalg.norm(high) < 0.05
    assert np.linalg.norm(slope - exact) < 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("given", "shape", "message"),
    [
        ({}, (2,), "edm2 needs images"),
        ({"edm2.multipliers": (1, 2, 2, 2)}, (3, 12, 12), "12x12 cannot be halved 3 times"),
        ({"edm2.head_dim": 3}, (3, 8, 8), "set edm2.head_dim to a divisor"),
    ],
)
def test_what_does_not_fit_is_refused(given, shape, message):
    spec = DataSpec("none", shape, 0, (0.0,) * shape[0], (1.0,) * shape[0])
    recipe = compose(SCM, SMALL | given, data=spec)
    with pytest.raises(Exception, match=message):
        eqx.filter_eval_shape(build_model, recipe, key=jr.key(0))
