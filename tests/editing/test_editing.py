"""Latents and zero-shot editing, with exact models of Gaussian data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from exact import exact_end, exact_model
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow
from scmkit_plugins.processes.trigflow import TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

from scmkit import Model
from scmkit.editing import (
    BlockMeans,
    Luminance,
    Pixels,
    decode,
    decode_at_once,
    edit,
    edit_samples,
    edit_times,
    encode,
    interpolate,
    nothing,
)
from scmkit.errors import UsageError
from scmkit.interfaces import AbstractNetwork, DataSpec
from scmkit.sampling import angle_of

PROCESSES = {
    "trigflow": TrigFlowProcess(0.5),
    "edm": VarianceExploding(),
    "flow": RectifiedFlow(),
    "vp": VariancePreserving(),
}
COLOUR = DataSpec("", (3, 4, 4), 0, (0.1, -0.2, 0.0), (0.9, 1.1, 1.3))
FILTERED = {
    "pixels": Pixels(jnp.arange(4) < 2),
    "luminance": Luminance(),
    "blocks": BlockMeans(2),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_encoding_is_the_exact_latent_and_decoding_goes_back(name):
    s, x = 0.2, jnp.asarray([0.3, -0.1, 0.0])
    model = exact_model(PROCESSES[name], s)
    latent = eqx.filter_jit(encode)(model, x)
    # From N(0, s^2) at the ratio 0.002 to N(0, 1), nearly: the last ratio is 80.
    np.testing.assert_allclose(latent, x / np.hypot(s, 2e-3), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(eqx.filter_jit(decode)(model, latent), x, atol=1e-4)
    consistency = exact_model(PROCESSES[name], s, consistency=True)
    np.testing.assert_allclose(decode_at_once(consistency, latent), x, rtol=2e-3, atol=2e-4)


def test_interpolation_stays_on_the_sphere(getkey):
    a, b = jr.normal(getkey(), (2, 3, 40, 40))
    walk = jax.vmap(interpolate, (None, None, 0))(a, b, jnp.linspace(0, 1, 5))
    np.testing.assert_allclose(walk[0], a, atol=1e-6)
    np.testing.assert_allclose(walk[-1], b, atol=1e-6)
    norms = jnp.linalg.norm(walk.reshape(5, -1), axis=1)
    np.testing.assert_allclose(norms, 4800**0.5, rtol=0.03)
    # A straight line would pass at 0.71 of the radius.
    assert jnp.linalg.norm((a + b).reshape(-1) / 2) < 0.75 * norms.min()
    b = b * jnp.linalg.norm(a.reshape(-1)) / jnp.linalg.norm(b.reshape(-1))
    quarter = interpolate(a, b, jnp.asarray(0.25))
    cosines = [jnp.sum(quarter * v) / jnp.sum(a * a) for v in (a, b)]
    angles = np.arccos(np.asarray(cosines, np.float64))
    np.testing.assert_allclose(angles[0], angles[1] / 3, rtol=1e-4)


def test_interpolation_of_near_and_equal_points(getkey):
    a = jr.normal(getkey(), (64,))
    np.testing.assert_allclose(interpolate(a, a, jnp.asarray(0.3)), a, rtol=1e-6)
    np.testing.assert_allclose(interpolate(a, 1.0001 * a, jnp.asarray(0.5)), 1.00005 * a, rtol=1e-6)


@pytest.mark.parametrize("name", FILTERED)
def test_projections_are_the_papers_map_and_mask(getkey, name):
    known, shape = FILTERED[name], (3, 4, 4)
    matrix = jax.vmap(known)(jnp.eye(48).reshape(48, *shape)).reshape(48, 48)
    np.testing.assert_allclose(matrix @ matrix, matrix, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    # A: an orthonormal basis in which the first coordinates are known (Algorithm 4 of 2303.01469).
    _, A = jnp.linalg.eigh(-matrix)
    A, rank = A.T, round(float(jnp.trace(matrix)))
    assert rank == {"pixels": 24, "luminance": 16, "blocks": 12}[name]
    omega = (jnp.arange(48) >= rank).astype(jnp.float32)
    x, y = jr.normal(getkey(), (2, *shape))
    theirs = A.T @ ((A @ y.reshape(-1)) * (1 - omega) + (A @ x.reshape(-1)) * omega)
    np.testing.assert_allclose((known(y) + (x - known(x))).reshape(-1), theirs, atol=1e-5)


def test_luminance_is_rec_601s(getkey):
    x = jr.normal(getkey(), (3, 4, 4))
    weights = jnp.asarray([0.2989, 0.5870, 0.1140])
    np.testing.assert_allclose(
        jnp.tensordot(weights, Luminance()(x), axes=1),
        jnp.tensordot(weights, x, axes=1),
        atol=1e-6,
    )


def test_edit_times_descend_in_equal_angles():
    param = exact_model(PROCESSES["edm"]).parameterization
    for start, first in ((None, np.arctan(160)), (0.9, 0.9)):
        angles = angle_of(param, edit_times(param, 4, start))
        np.testing.assert_allclose(angles, first * np.asarray([4, 3, 2, 1]) / 4, atol=4e-3)


class ExactGaussian(AbstractNetwork):
    """The raw network of EDM's preconditioning whose `f` is exact for `N(0, covariance)`."""

    covariance: jax.Array
    sigma_data: float = 0.5

    def map(self, t):
        """`f(x, t) = S^{1/2} (S + t^2 I)^{-1/2} x`."""
        values, vectors = jnp.linalg.eigh(self.covariance)
        return vectors @ jnp.diag(jnp.sqrt(values / (values + t**2))) @ vectors.T

    def __call__(self, x, c_noise, cond, *, key):
        t = jnp.exp(4 * c_noise[0])
        c = EDMParameterization(VarianceExploding(), self.sigma_data).coefficients(t)
        x_t = x / c.in_
        return (self.map(t) @ x_t - c.skip * x_t) / c.out


def test_inpainting_a_correlated_gaussian():
    rho, s, y, n = 0.8, 0.5, 0.7, 20_000
    network = ExactGaussian(s**2 * jnp.asarray([[1, rho], [rho, 1]]))
    model = Model(EDMParameterization(VarianceExploding(), 0.5), network)
    times = edit_times(model.parameterization, 12)
    known, start = Pixels(jnp.asarray([True, False])), jnp.asarray([y, 9.0])

    @eqx.filter_jit
    def draw(keys):
        return jax.vmap(lambda k: edit(model, known(start), known, times=times, key=k))(keys)

    x = np.asarray(draw(jr.split(jr.key(0), n)))
    assert (x[:, 0] == np.float32(y)).all()
    # The algorithm's own limit is a linear recursion: x2 <- M21 (y + t e1) + M22 (x2 + t e2).
    mean = variance = 0.0
    for i, t in enumerate(np.asarray(times, np.float64)):
        M, first = np.asarray(network.map(t), np.float64), y if i else float(start[0])
        mean = M[1, 0] * first + M[1, 1] * mean
        variance = M[1, 1] ** 2 * (variance + t**2) + M[1, 0] ** 2 * t**2
    assert abs(x[:, 1].mean() - mean) < 4 * (variance / n) ** 0.5
    np.testing.assert_allclose(x[:, 1].var(), variance, rtol=0.05)
    # Most of the way to the conditional mean, from that of no knowledge.
    assert 0.6 * rho * y < mean < 1.1 * rho * y


def test_with_nothing_known_it_is_consistency_sampling(getkey):
    process = PROCESSES["trigflow"]
    model, x = exact_model(process, consistency=True), jnp.asarray([0.3, -0.2])
    times, key = edit_times(model.parameterization, 1, 0.6), getkey()
    [k] = jr.split(key, 1)
    noisy = process.perturb(x, jr.normal(k, (2,)), times[0])
    out = edit(model, x, nothing, times=times, key=key)
    np.testing.assert_allclose(out, exact_end(process, noisy, times[0]), rtol=1e-5)
    # Little noise stays close to the guide.
    near = edit(model, x, nothing, times=edit_times(model.parameterization, 1, 0.01), key=key)
    assert jnp.abs(near - x).max() < 0.05 < jnp.abs(out - x).max()


@pytest.mark.parametrize("name", FILTERED)
def test_edited_samples_keep_what_is_known(name):
    known = FILTERED[name]
    # So bright that what the model draws would leave [-1, 1].
    images = np.random.default_rng(0).uniform(-1, 1, (2, *COLOUR.shape)).astype(np.float32)
    model = exact_model(PROCESSES["trigflow"], 0.5, consistency=True)
    out = edit_samples(model, COLOUR, images, known, steps=2, variations=3, seed=1)
    assert out.shape == (2, 3, *COLOUR.shape)
    assert np.abs(out[:, 0] - out[:, 1]).max() > 0.1
    assert np.abs(out).max() == 1
    twice = jax.vmap(jax.vmap(known))
    given = twice(jnp.broadcast_to(images[:, None], out.shape))
    np.testing.assert_allclose(twice(jnp.asarray(out)), given, atol=1e-5)
    if name == "pixels":
        np.testing.assert_array_equal(
            out[..., :2], np.broadcast_to(images[:, None], out.shape)[..., :2]
        )


def test_the_unknown_part_does_not_leak():
    model, known = exact_model(PROCESSES["edm"], 0.1, consistency=True), FILTERED["pixels"]
    images = np.zeros((1, *COLOUR.shape), np.float32)
    other = images.copy()
    other[..., 2:] = 0.9
    a, b = (edit_samples(model, COLOUR, x, known, steps=2) for x in (images, other))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("known", "shape", "match"),
    [
        (Luminance(), (1, 4, 4), "three channels, and this data has 1"),
        (BlockMeans(3), (1, 4, 4), "blocks of 3x3 pixels do not fill an image of 4x4"),
    ],
)
def test_projections_that_do_not_fit(known, shape, match):
    with pytest.raises(UsageError, match=match):
        known(jnp.zeros(shape))
