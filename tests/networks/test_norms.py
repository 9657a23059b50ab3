"""Adaptive normalizations: statistics, modulation, initialisation, dtypes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.layers.normalize import group_norm, layer_norm, rms_norm
from scmkit_plugins.modulation import adagn, adaln, adaptive_double_norm
from scmkit_plugins.modulation.adaptive_double_norm import AdaptiveDoubleNorm, pnorm

from scmkit.interfaces import AbstractNorm, DataSpec, NormFactory
from scmkit.plugin import Context, Slot

DATA = DataSpec(source="test", shape=(2,), num_classes=0, shift=(0.0,), scale=(1.0,))
CASES = [
    pytest.param(adagn, {}, id="adagn"),
    pytest.param(adaln, {}, id="adaln"),
    pytest.param(adaptive_double_norm, {}, id="double-rms"),
    pytest.param(adaptive_double_norm, {"norm": "group"}, id="double-group"),
]


def factory_of(module, options) -> NormFactory:
    build = module.plugin.provides[Slot.norm]
    return build(module.plugin.config(**options), Context(DATA), key=jr.key(0))


@pytest.mark.parametrize(("module", "options"), CASES)
@pytest.mark.parametrize("shape", [(16,), (5, 16), (4, 3, 16), (4, 4, 130)])
def test_any_space_and_width(module, options, shape, getkey):
    factory = factory_of(module, options)
    assert isinstance(factory, NormFactory)
    norm = factory(shape[-1], 8, key=getkey())
    assert isinstance(norm, AbstractNorm)
    y = eqx.filter_jit(norm)(jr.normal(getkey(), shape), jr.normal(getkey(), (8,)))
    assert y.shape == shape
    assert jnp.all(jnp.isfinite(y))


@pytest.mark.parametrize(("module", "options"), CASES)
def test_vmap_is_a_loop(module, options, getkey):
    norm = factory_of(module, options)(16, 8, key=getkey())
    x, emb = jr.normal(getkey(), (3, 5, 16)), jr.normal(getkey(), (3, 8))
    run = eqx.filter_jit(norm)
    loop = np.stack([run(a, e) for a, e in zip(x, emb, strict=True)])
    np.testing.assert_allclose(eqx.filter_jit(jax.vmap(norm))(x, emb), loop, atol=1e-5)


@pytest.mark.parametrize(("module", "options"), CASES)
def test_bfloat16_input_has_float32_statistics(module, options, getkey):
    norm = factory_of(module, options)(16, 8, key=getkey())
    # In bfloat16 the mean of these would be off by far more than their spread.
    x = (100 + jr.normal(getkey(), (64, 16))).astype(jnp.bfloat16)
    emb = jr.normal(getkey(), (8,))
    run = eqx.filter_jit(norm)
    low, high = run(x, emb), run(x.astype(jnp.float32), emb)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), high, atol=0.06, rtol=0.03)


@pytest.mark.parametrize(("module", "options"), CASES)
def test_jvp_is_the_limit_of_differences(module, options, getkey):
    norm = factory_of(module, options)(16, 8, key=getkey())
    x, emb, dx, demb = (jr.normal(getkey(), s) for s in ((5, 16), (8,), (5, 16), (8,)))
    run, h = eqx.filter_jit(norm), 1e-2
    _, tangent = jax.jvp(run, (x, emb), (dx, demb))
    difference = (run(x + h * dx, emb + h * demb) - run(x - h * dx, emb - h * demb)) / (2 * h)
    np.testing.assert_allclose(tangent, difference, atol=1e-2)


def test_normalizations_against_numpy(getkey):
    x = 3 + 2 * jr.normal(getkey(), (6, 7, 24))
    a = np.asarray(x, np.float64)
    np.testing.assert_allclose(rms_norm(x), a / np.sqrt((a**2).mean(-1, keepdims=True)), rtol=1e-5)
    centred = a - a.mean(-1, keepdims=True)
    np.testing.assert_allclose(layer_norm(x), centred / centred.std(-1, keepdims=True), atol=1e-5)
    groups = a.reshape(42, 6, 4)
    groups = (groups - groups.mean((0, 2), keepdims=True)) / groups.std((0, 2), keepdims=True)
    np.testing.assert_allclose(group_norm(x), groups.reshape(a.shape), atol=1e-4)


def test_adaln_starts_as_layer_norm(getkey):
    x = jr.normal(getkey(), (5, 16))
    norm = factory_of(adaln, {})(16, 8, key=getkey())
    np.testing.assert_array_equal(norm(x, jr.normal(getkey(), (8,))), layer_norm(x))


def test_adagn_is_one_plus_scale_and_shift(getkey):
    norm = factory_of(adagn, {})(16, 8, key=getkey())
    assert isinstance(norm, adagn.AdaptiveGroupNorm)
    x, emb = jr.normal(getkey(), (5, 16)), jr.normal(getkey(), (8,))
    s, b = jnp.split(emb @ norm.modulation.weight, 2)
    expected = group_norm(x) * (1 + s)[None] + b[None]
    np.testing.assert_allclose(norm(x, emb), expected, atol=1e-5)


def test_pnorm_is_scale_invariant_with_slope_1e4_at_zero(getkey):
    a = jr.normal(getkey(), (64,))
    np.testing.assert_allclose(pnorm(1e3 * a), pnorm(a), rtol=1e-4)
    np.testing.assert_allclose(jnp.mean(pnorm(a) ** 2), 1, rtol=1e-5)
    _, slope = jax.jvp(pnorm, (jnp.zeros(64),), (a,))
    np.testing.assert_allclose(slope, 1e4 * a, rtol=1e-5)


def test_double_norm_follows_the_paper(getkey):
    norm = AdaptiveDoubleNorm(16, 8, key=getkey())
    assert jnp.std(norm.modulation.weight) > 0.2  # 8**-0.5: never zero-initialised
    x, emb = jr.normal(getkey(), (5, 16)), jr.normal(getkey(), (8,))
    s, b = jnp.split(norm.modulation(emb), 2)
    expected = rms_norm(x) * pnorm(s)[None] + pnorm(b)[None]
    np.testing.assert_allclose(norm(x, emb), expected, atol=1e-5)
    # The whole layer, not only pnorm, forgets the size of its modulation.
    louder = eqx.tree_at(
        lambda n: n.modulation, norm, jax.tree.map(lambda a: 50 * a, norm.modulation)
    )
    np.testing.assert_allclose(louder(x, emb), norm(x, emb), atol=1e-4)


def test_double_norm_is_finite_where_the_embedding_vanishes(getkey):
    norm = AdaptiveDoubleNorm(16, 8, key=getkey())
    x, emb = jr.normal(getkey(), (5, 16)), jnp.zeros(8)
    value, tangent = jax.jvp(lambda e: norm(x, e), (emb,), (jnp.ones(8),))
    grads = eqx.filter_grad(lambda n: jnp.sum(n(x, emb)))(norm)
    leaves = [value, tangent, *jax.tree.leaves(grads)]
    assert all(bool(jnp.all(jnp.isfinite(a))) for a in leaves)
