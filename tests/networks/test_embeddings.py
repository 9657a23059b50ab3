"""Time embeddings: closed forms, unit RMS, float32."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.modulation import fourier, positional

from scmkit.interfaces import AbstractTimeEmbedding, DataSpec
from scmkit.plugin import Context, Slot


def build(module, **options) -> AbstractTimeEmbedding:
    data = DataSpec(source="test", shape=(2,), num_classes=0, shift=(0.0,), scale=(1.0,))
    factory = module.plugin.provides[Slot.embedding]
    context = Context(data)
    return factory(module.plugin.config(**options), context, key=jr.key(0))


@pytest.mark.parametrize("module", [positional, fourier])
def test_shape_dtype_and_rms(module):
    embedding = build(module, channels=512)
    times = jnp.linspace(0.1, 1.5, 16)[:, None]
    features = jax.vmap(embedding)(times)
    assert features.shape == (16, embedding.dim) == (16, 512)
    rms = jnp.sqrt(jnp.mean(features**2, axis=1))
    np.testing.assert_allclose(rms, 1, atol=1e-5 if module is positional else 0.15)
    low = embedding(times[0].astype(jnp.bfloat16))
    assert low.dtype == jnp.float32
    np.testing.assert_array_equal(low, embedding(times[0].astype(jnp.bfloat16).astype(jnp.float32)))


def test_positional_is_cosines_and_sines_of_the_raw_label():
    embedding = build(positional, channels=8, min_frequency=1e-3)
    t = np.array([0.7])
    frequencies = np.array([1, 0.1, 0.01, 0.001])
    expected = [f(label * frequencies) for label in t for f in (np.cos, np.sin)]
    actual = embedding(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(actual, np.sqrt(2) * np.concatenate(expected), rtol=1e-6)


def test_fourier_is_a_cosine_of_turns_at_its_scale():
    embedding = build(fourier, channels=4096, scale=16.0)
    assert isinstance(embedding, fourier.FourierEmbedding)
    np.testing.assert_allclose(jnp.std(embedding.frequencies), 16, rtol=0.05)
    t = np.float32(0.7)
    f, phase = np.asarray(embedding.frequencies[0], np.float64), np.asarray(embedding.phases[0])
    expected = np.sqrt(2) * np.cos(2 * np.pi * (f * t + phase))
    np.testing.assert_allclose(embedding(jnp.asarray([t])), expected, atol=1e-4)


def test_fourier_frequencies_are_never_trained_but_time_is_differentiated():
    embedding = build(fourier, channels=16)
    t = jnp.asarray([0.7])
    grads = eqx.filter_grad(lambda e: jnp.sum(e(t)))(embedding)
    assert all(not jnp.any(g) for g in jax.tree.leaves(grads))
    _, tangent = jax.jvp(embedding, (t,), (jnp.ones(1),))
    assert jnp.any(tangent != 0)


def test_the_time_derivative_stays_below_that_of_edms_scale():
    t, one = jnp.asarray([1.2]), jnp.ones(1)
    norms = {
        name: float(jnp.linalg.norm(jax.jvp(embedding, (t,), (one,))[1]))
        for name, embedding in {
            "positional": build(positional),
            "fourier": build(fourier),
            "edm": build(fourier, scale=16.0),
        }.items()
    }
    assert norms["edm"] > 100 * norms["positional"]
    assert norms["edm"] > 100 * norms["fourier"]


def test_an_odd_number_of_positional_channels_is_refused():
    with pytest.raises(ValueError, match=r"positional\.channels to an even number, not 7"):
        build(positional, channels=7)
