"""The optimizer and its schedules against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scmkit.settings import TrainingSettings
from scmkit.training.optimizer import build_optimizer, learning_rate


def rates(steps=100, at=None, **settings):
    schedule = learning_rate(TrainingSettings(steps=steps, **settings), steps)
    return np.array([np.asarray(schedule(n)) for n in (range(steps) if at is None else at)])


def test_constant_with_warmup():
    got = rates(lr=0.2, warmup=10)
    np.testing.assert_allclose(got[:10], 0.2 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(got[10:], 0.2, rtol=1e-6)
    np.testing.assert_allclose(rates(lr=0.2), 0.2, rtol=1e-6)


def test_inverse_sqrt_is_edm2():
    at = [0, 99, 35_000, 70_000, 140_000, 10**6]
    settings = {"schedule": "inverse-sqrt", "lr": 1e-2, "lr_reference": 70_000, "warmup": 100}
    expected = [1e-4, *(1e-2 / np.sqrt(max(n / 70_000, 1)) for n in at[1:])]
    np.testing.assert_allclose(rates(at=at, **settings), expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("lr_end", [0.0, 0.1, 1.0])
def test_decay_to_the_end(schedule, lr_end):
    settings = {"schedule": schedule, "lr": 0.5, "warmup": 20, "lr_end": lr_end}
    start, middle, end, after = rates(at=[20, 60, 100, 1000], **settings)
    assert start == pytest.approx(0.5)
    assert middle == pytest.approx(0.5 * (1 + lr_end) / 2)
    assert end == pytest.approx(0.5 * lr_end, abs=1e-7)
    assert after == end
    got = rates(**settings)
    assert (np.diff(got[20:]) <= 0).all()
    assert (got > 0).all()
    quarter = {"linear": 0.75, "cosine": (1 + np.cos(np.pi / 4)) / 2}[schedule]
    assert got[40] == pytest.approx(0.5 * (lr_end + (1 - lr_end) * quarter))


def test_warmup_longer_than_the_training():
    np.testing.assert_allclose(
        rates(steps=4, schedule="cosine", lr=1.0, warmup=8), np.arange(1, 5) / 8, rtol=1e-6
    )


def test_rate_is_float32_under_jit():
    schedule = learning_rate(TrainingSettings(schedule="cosine", warmup=3), 100)
    rate = jax.jit(schedule)(jnp.asarray(7))
    assert isinstance(rate, jax.Array)
    assert (rate.dtype, rate.shape) == (jnp.float32, ())
    np.testing.assert_allclose(rate, schedule(7), rtol=1e-6)


def updates(settings, gradients, params):
    optimizer = build_optimizer(settings, settings.steps)
    opt_state = optimizer.init(params)
    done = []
    for gradient in gradients:
        update, opt_state = jax.jit(optimizer.update)(gradient, opt_state, params)
        done.append(update)
    return done


@pytest.mark.parametrize("name", ["adam", "radam"])
def test_against_optax(name):
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(())}
    gradients = [jax.tree.map(lambda p, i=i: jnp.cos(p + i), params) for i in range(12)]
    settings = TrainingSettings(
        optimizer=name, lr=1e-2, beta1=0.8, beta2=0.97, epsilon=1e-6, schedule="linear", steps=20
    )
    ours = updates(settings, gradients, params)
    # In float64, since optax's rectification loses digits in float32.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        known = {"adam": optax.adam, "radam": optax.radam}[name]
        reference = known(optax.linear_schedule(1e-2, 0.0, 20), b1=0.8, b2=0.97, eps=1e-6)
        state = reference.init(jax.tree.map(lambda p: p.astype(jnp.float64), params))
        for gradient, got in zip(gradients, ours, strict=True):
            wide = jax.tree.map(lambda g: g.astype(jnp.float64), gradient)
            expected, state = reference.update(wide, state)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)


@pytest.mark.parametrize("beta2", [0.0, 0.6, 0.97, 0.999])
def test_radam_in_float64(beta2):
    """Algorithm 2 of arXiv 1908.03265 in numpy; at .999 the rectification starts at the sixth step."""
    settings = TrainingSettings(optimizer="radam", lr=1.0, beta1=0.9, beta2=beta2)
    gradients = np.cos(np.arange(24)).reshape(12, 2)
    given = [jnp.asarray(g, jnp.float32) for g in gradients]
    taken = updates(settings, given, jnp.zeros(2))
    m = v = 0
    longest = 2 / (1 - beta2) - 1
    for n, (g, got) in enumerate(zip(gradients, taken, strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, beta2 * v + (1 - beta2) * g**2
        rho = longest - 2 * n * beta2**n / (1 - beta2**n)
        step = m / (1 - 0.9**n)
        if rho >= 5:
            r = (rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)
            step *= np.sqrt(r) / (np.sqrt(v / (1 - beta2**n)) + settings.epsilon)
        # Adam's own bias correction in float32 is off by 6e-6 at .999.
        np.testing.assert_allclose(got, -step, rtol=2e-5)


def test_adam_first_step_is_the_rate():
    gradient = jnp.asarray([1e-3, -2.0, 50.0])
    (update,) = updates(TrainingSettings(lr=0.1), [gradient], jnp.zeros(3))
    np.testing.assert_allclose(update, -0.1 * jnp.sign(gradient), rtol=1e-4)


def test_clip_is_of_the_global_norm():
    # After a small gradient the moments tell a clipped large one from an unclipped one.
    small = {"a": jnp.asarray(0.3), "b": jnp.asarray(0.4)}
    large = jax.tree.map(lambda x: 100 * x, small)
    params = jax.tree.map(jnp.zeros_like, small)
    clipped = updates(TrainingSettings(clip=0.5), [small, large], params)
    direct = updates(TrainingSettings(), [small, small], params)
    free = updates(TrainingSettings(), [small, large], params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), clipped[1], direct[1])
    assert abs(float(free[1]["a"] - direct[1]["a"])) > 1e-4


def test_parameters_that_are_not_trained():
    params = {"w": jnp.ones(2), "frozen": None, "half": jnp.ones(2, jnp.bfloat16)}
    gradient = jax.tree.map(jnp.ones_like, params)
    (update,) = updates(TrainingSettings(clip=1.0, warmup=2), [gradient], params)
    assert update["frozen"] is None
    assert update["half"].dtype == jnp.bfloat16
