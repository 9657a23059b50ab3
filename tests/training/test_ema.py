"""Averages against their closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scmkit.errors import OptionError
from scmkit.training.ema import HalfLifeEMA, NoEMA, PowerEMA, parse_ema


def run(ema, sequence, start):
    """The averages after every update, in one compiled scan."""

    def body(average, item):
        step, params = item
        average = ema.update(average, params, step)
        return average, average

    steps = jnp.arange(1, len(sequence) + 1)
    return jax.jit(lambda a, xs: jax.lax.scan(body, a, xs))(start, (steps, sequence))[1]


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_power_exponent_and_width(sigma_rel, gamma):
    ema = PowerEMA(sigma_rel)
    assert ema.gamma == pytest.approx(gamma, abs=0.005)
    g = ema.gamma
    assert (g + 1) / ((g + 2) ** 2 * (g + 3)) == pytest.approx(sigma_rel**2, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.25, 12**-0.5])
def test_power_is_the_weighted_average(sigma_rel):
    n = 2000
    sequence = np.random.default_rng(0).normal(size=n).astype(np.float32) + 1
    averages = run(PowerEMA(sigma_rel), jnp.asarray(sequence), jnp.asarray(1e6))
    # Unrolled, update i weighs (1 - beta_i) prod_{j > i} beta_j = i^(g+1) - (i-1)^(g+1) over n^(g+1).
    i = np.arange(1, n + 1, dtype=np.float64)
    g = PowerEMA(sigma_rel).gamma
    for m in (1, 2, 10, n):
        weights = (i[:m] / m) ** (g + 1) - ((i[:m] - 1) / m) ** (g + 1)
        expected = weights @ sequence[:m]
        np.testing.assert_allclose(averages[m - 1], expected, rtol=2e-5)
    # That is i^gamma, up to the difference of a sum and an integral, and has the width asked for.
    smooth = i**g / (i**g).sum()
    np.testing.assert_allclose(averages[-1], smooth @ sequence, rtol=2e-2)
    width = np.sqrt(smooth @ (i / n) ** 2 - (smooth @ (i / n)) ** 2)
    assert width == pytest.approx(sigma_rel, rel=0.02)


def test_width_zero_gamma_is_the_plain_mean():
    assert PowerEMA(12**-0.5).gamma == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("half_life", [500, 50_000, 5_000_000])
def test_half_life_leaves_half(half_life):
    batch = 500
    ema = HalfLifeEMA(float(half_life), batch, rampup=1e9)
    updates = half_life // batch
    # The first update replaces by 0; then the average moves towards 1.
    sequence = jnp.ones(updates + 1).at[0].set(0)
    averages = run(ema, sequence, jnp.asarray(7.0))
    assert averages[0] == 0
    np.testing.assert_allclose(averages[-1], 0.5, rtol=2e-6 * np.sqrt(updates))


def test_half_life_ramps_up_as_edm_does():
    half_life, batch, rampup = 10_000, 100, 0.05
    ema = HalfLifeEMA(float(half_life), batch, rampup)
    for step in (1, 2, 10, 1000, 3000, 100_000):
        seen = (step - 1) * batch
        expected = 0.5 ** (batch / max(min(half_life, seen * rampup), 1e-8))
        np.testing.assert_allclose(ema.decay(jnp.asarray(step)), expected, rtol=1e-5, atol=1e-7)


def test_long_averages_keep_their_precision():
    # beta in float32 would be off by 3e-8, a tenth of this gain.
    ema = HalfLifeEMA(1e9, 512, rampup=1e9)
    expected = -np.expm1(-np.log(2) * 512 / 1e9)
    np.testing.assert_allclose(ema.gain(jnp.asarray(10**7)), expected, rtol=1e-6)
    n = 10**7
    expected = -np.expm1((PowerEMA(0.05).gamma + 1) * np.log1p(-1 / n))
    np.testing.assert_allclose(PowerEMA(0.05).gain(jnp.asarray(n)), expected, rtol=1e-6)


@pytest.mark.parametrize("ema", [PowerEMA(0.05), HalfLifeEMA(5e5, 128), NoEMA()])
@pytest.mark.parametrize("step", [0, 1])
def test_first_update_replaces(ema, step):
    old, new = jnp.asarray([1e30, 3.0, -1.0]), jnp.asarray([0.1, 0.2, 1e-30])
    assert (ema.update(old, new, jnp.asarray(step)) == new).all()


def test_no_average():
    sequence = jnp.asarray([1.0, 5.0, -3.0])
    assert (run(NoEMA(), sequence, jnp.asarray(0.0)) == sequence).all()


def test_only_inexact_arrays_are_averaged():
    class Model(eqx.Module):
        weight: jax.Array
        half: jax.Array
        count: jax.Array
        mask: jax.Array
        activation: object
        key: jax.Array
        none: None = None

    def model(x):
        return Model(
            jnp.full(3, x),
            jnp.full(2, x, jnp.bfloat16),
            jnp.asarray(int(x)),
            jnp.asarray(x > 1),
            jax.nn.silu,
            jax.random.key(int(x)),
        )

    old, new = model(0.0), model(2.0)
    step = jnp.asarray(100)
    mixed = eqx.filter_jit(PowerEMA(0.1).update)(old, new, step)
    gain = PowerEMA(0.1).gain(step)
    np.testing.assert_allclose(mixed.weight, 2 * gain, rtol=1e-6)
    assert mixed.half.dtype == jnp.bfloat16
    np.testing.assert_allclose(mixed.half.astype(jnp.float32), 2 * gain, rtol=1e-2)
    assert mixed.count == 2
    assert mixed.mask
    assert mixed.activation is jax.nn.silu
    assert mixed.key == new.key


def test_average_may_be_more_precise_than_the_parameters():
    old, new = jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.bfloat16)
    mixed = PowerEMA(0.05).update(old, new, jnp.asarray(10_000))
    assert mixed.dtype == jnp.float32
    np.testing.assert_allclose(mixed, PowerEMA(0.05).gain(jnp.asarray(10_000)), rtol=1e-6)


def test_parse():
    assert parse_ema("power:0.05", 128) == PowerEMA(0.05)
    assert parse_ema("half-life:500000", 128) == HalfLifeEMA(500_000.0, 128)
    assert parse_ema("half-life:5e5", 128) == HalfLifeEMA(500_000.0, 128)
    assert parse_ema("none", 128) == NoEMA()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("powr:0.05", "unknown EMA 'powr:0.05'; did you mean 'power'"),
        ("", "unknown EMA ''"),
        ("power", "should have a number after 'power:'"),
        ("half-life:many", "should have a number after 'half-life:'"),
        ("none:1", "should have nothing after 'none'"),
        ("power:0", "width is 0.0; give a number above 0 and up to 0.288"),
        ("power:0.5", "width is 0.5"),
        ("power:nan", "width is nan"),
        ("half-life:-1", "half_life is -1.0"),
        ("half-life:inf", "half_life is inf"),
    ],
)
def test_parse_errors(text, words):
    with pytest.raises(OptionError) as error:
        parse_ema(text, 128)
    assert words in str(error.value)
