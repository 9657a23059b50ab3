"""Likelihoods against closed forms: Gaussians, mixtures, and the entropy of discrete data."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.processes.edm import EDMParameterization, VarianceExploding
from scmkit_plugins.processes.flow_matching import RectifiedFlow, VelocityParameterization
from scmkit_plugins.processes.preconditioned import Preconditioned
from scmkit_plugins.processes.trigflow import TrigFlowParameterization, TrigFlowProcess
from scmkit_plugins.processes.vp import VariancePreserving

from scmkit import Model, Run, compose
from scmkit.data import Mixture
from scmkit.errors import OptionError, UsageError
from scmkit.evaluation.likelihood import log_likelihood
from scmkit.evaluation.likelihood.bits import bits_of_samples, bits_per_dimension
from scmkit.evaluation.likelihood.divergence import along_directions
from scmkit.interfaces import AbstractNetwork, Conditioning, DataSpec
from scmkit.models.change_of_process import angular_velocity, velocity_under
from scmkit.testing.oracles import Gaussian, exact_model

TRIGFLOW = TrigFlowProcess(0.5)
PARAMETERIZATIONS = {
    "trigflow": TrigFlowParameterization(TRIGFLOW, 0.5),
    "edm": EDMParameterization(VarianceExploding(), 0.5),
    "flow": VelocityParameterization(RectifiedFlow(), 0.5),
    "vp": Preconditioned(VariancePreserving(), 0.5),
}
# Of mean zero, so that the prior at the last ratio, 80, is the noisy data's to 1e-4.
MIXTURE = Mixture(
    weights=jnp.asarray([[0.4, 0.6], [0.5, 0.5]]),
    means=jnp.asarray([[-0.6, 0.4], [-0.3, 0.3]]),
    stds=jnp.asarray([[0.15, 0.25], [0.1, 0.2]]),
)


class Matrix(AbstractNetwork):
    """A linear map of the input: a field whose divergence is the matrix's trace."""

    matrix: jax.Array

    def __call__(self, x, c_noise, cond, *, key):
        return (self.matrix @ x.reshape(-1)).reshape(x.shape)


def log_normal(x, variance):
    return np.sum(-0.5 * x**2 / variance - 0.5 * math.log(2 * math.pi * variance), axis=-1)


def likelihoods(model, x, **options):
    return eqx.filter_jit(jax.vmap(lambda x: log_likelihood(model, x, **options)))(x)


@pytest.mark.parametrize(
    "name", ["trigflow", "vp", *(pytest.param(n, marks=pytest.mark.slow) for n in ("edm", "flow"))]
)
def test_gaussian_log_density(name):
    s, x = 0.2, jnp.asarray([[0.1, -0.3, 0.25], [0.6, 0.0, -0.1], [0.0, 0.0, 0.0]])
    model, ratios = exact_model(PARAMETERIZATIONS[name], Gaussian.isotropic(s)), [2e-3, 0.3, 2e-3]

    @eqx.filter_jit
    @jax.vmap
    def likelihoods(x, ratio):
        return log_likelihood(model, x, ratio_min=ratio, rtol=1e-6, atol=1e-6)

    out = likelihoods(x, jnp.asarray(ratios))
    want = [log_normal(np.asarray(a), s**2 + r**2) for a, r in zip(x, ratios, strict=True)]
    np.testing.assert_allclose(out.value, want, atol=1e-3)
    assert not out.error.any()
    assert (out.nfe > 10).all()


def test_the_prior_is_the_process_s_own():
    # At a last ratio of 1 the prior is far from the noisy data; the density is what the ODE makes of it.
    s, x = 0.2, jnp.asarray([[0.1, -0.3, 0.25]])
    process = VarianceExploding(ratio_max=1.0)
    model = exact_model(EDMParameterization(process, 0.5), Gaussian.isotropic(s))
    out = likelihoods(model, x, rtol=1e-6, atol=1e-6)
    # The ODE multiplies by sqrt(s^2 + r^2) / sqrt(s^2 + 1) on its way back.
    np.testing.assert_allclose(
        out.value, log_normal(np.asarray(x), (s**2 + 4e-6) / (s**2 + 1)), atol=1e-3
    )


@pytest.mark.parametrize("name", ["trigflow", "flow"])
def test_mixture_log_density(name):
    param = PARAMETERIZATIONS[name]
    x, ratio = MIXTURE.sample(8, key=jr.key(0)), jnp.asarray(2e-3)
    out = likelihoods(exact_model(param, MIXTURE), x, rtol=1e-6, atol=1e-6)
    want = jax.vmap(lambda x: MIXTURE.log_prob(VarianceExploding(), x, ratio))(x)
    np.testing.assert_allclose(out.value, want, atol=1.5e-3)


def test_labels_reach_the_model():
    class Shifted(AbstractNetwork):
        """A Gaussian of standard deviation sigma_data, around a mean by class."""

        def __call__(self, x, c_noise, cond, *, key):
            mean = jnp.asarray([0.0, 0.3])[cond.label]
            return jnp.full_like(x, -jnp.sin(c_noise[0]) * mean / 0.5)

    model = Model(PARAMETERIZATIONS["trigflow"], Shifted())

    @eqx.filter_jit
    @jax.vmap
    def values(label):
        return log_likelihood(model, jnp.full(2, 0.3), Conditioning(label)).value

    want = log_normal(np.asarray([[0.3, 0.3], [0.0, 0.0]]), 0.25)
    np.testing.assert_allclose(values(jnp.arange(2)), want, atol=2e-3)


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
def test_forms_of_a_linear_field(getkey, monkeypatch, shape):
    monkeypatch.setattr("scmkit.evaluation.likelihood.divergence.AT_ONCE", 24)
    matrix, x = jr.normal(getkey(), (6, 6)), jr.normal(getkey(), shape)

    def field(x):
        return (matrix @ x.reshape(-1)).reshape(x.shape)

    value, diagonal = along_directions(field, x, None)
    np.testing.assert_allclose(value, field(x), rtol=1e-6)
    np.testing.assert_allclose(diagonal, jnp.diagonal(matrix), rtol=1e-5)
    probes = jr.rademacher(getkey(), (5, *shape), jnp.float32)
    _, forms = along_directions(field, x, probes)
    flat = probes.reshape(5, 6)
    np.testing.assert_allclose(forms, jnp.sum(flat * (flat @ matrix.T), axis=1), rtol=1e-4)


def test_hutchinson_is_unbiased_and_knows_its_error(getkey):
    # Off-diagonal, so that the probes matter: an isotropic field has the same form for all of them.
    matrix = 0.3 * jr.normal(getkey(), (4, 4))
    model = Model(PARAMETERIZATIONS["trigflow"], Matrix(matrix))
    x = 0.3 * jr.normal(getkey(), (1, 4))
    exact = likelihoods(model, x)
    many = likelihoods(model, x, probes=512, key=getkey())
    assert 0.005 < many.error[0] < 0.2
    assert abs(many.value - exact.value)[0] < 3 * many.error[0]
    keys = jr.split(getkey(), 256)
    single = eqx.filter_jit(jax.vmap(lambda k: log_likelihood(model, x[0], probes=1, key=k)))(keys)
    assert jnp.isnan(single.error).all()
    spread = float(jnp.std(single.value))
    np.testing.assert_allclose(spread, many.error[0] * 512**0.5, rtol=0.2)
    assert abs(float(jnp.mean(single.value) - exact.value[0])) < 3 * spread / 16


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("ratio", [0.01, 0.7, 50.0])
def test_angular_velocity_is_that_under_trigflow(name, ratio):
    with jax.enable_x64(True):
        model = exact_model(PARAMETERIZATIONS[name], Gaussian.isotropic(0.2))
        angle = jnp.arctan(jnp.asarray(ratio, jnp.float64) / 0.5)
        x = jnp.linspace(-1, 1, 4)
        ours = angular_velocity(model, x, angle)
        np.testing.assert_allclose(
            ours, velocity_under(TRIGFLOW, model, x, angle), rtol=1e-7, atol=1e-9
        )
        closed = Gaussian.isotropic(0.2).velocity(TRIGFLOW, x, angle)
        np.testing.assert_allclose(ours, closed, rtol=1e-6, atol=1e-8)


def test_units_change_by_the_scale():
    data = DataSpec("", (2,), 0, (1.0, -3.0), (0.5, 0.25))
    model = exact_model(PARAMETERIZATIONS["trigflow"], Gaussian.isotropic(0.5))
    raw = np.random.default_rng(0).normal([1, -3], [1, 2], (64, 2)).astype(np.float32)
    out = bits_of_samples(model, data, raw)
    nats = 0.5 * ((raw - [1, -3]) / [1, 2]) ** 2 + np.log([1, 2]) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(out.bits, nats.mean(1) / np.log(2), atol=1e-3)
    assert out.levels == 0
    assert "continuous" in out.dequantization
    assert out.ratio_min == 2e-3
    low, high = out.interval
    assert low < out.mean < high
    np.testing.assert_allclose(high - low, 2 * 1.96 * out.bits.std(ddof=1) / 8, rtol=1e-6)


def test_a_discretised_gaussian_costs_its_entropy():
    levels, std = 65, 0.25
    width = 2 / (levels - 1)
    grid = np.linspace(-1, 1, levels)
    p = np.exp(-0.5 * (grid / std) ** 2)
    p /= p.sum()
    entropy = -(p * np.log2(np.maximum(p, 1e-300))).sum()
    rng = np.random.default_rng(0)
    x = rng.choice(grid, (400, 1, 2, 2), p=p).astype(np.float32)
    # What a model would learn: the data's own variance, in units where it is 0.5.
    data = DataSpec("", (1, 2, 2), 0, (0.0,), (2.0,))
    model = exact_model(PARAMETERIZATIONS["edm"], Gaussian.isotropic(0.5))
    out = bits_of_samples(model, data, x, levels=levels)
    np.testing.assert_allclose(out.ratio_min, 2 * width / 12**0.5, rtol=1e-6)
    assert "65 levels" in out.dequantization
    low, high = out.interval
    assert high - low < 0.12
    assert low < entropy < high
    # The same dequantisation and, the field being isotropic, the same form for every probe.
    probed = bits_of_samples(model, data, x, levels=levels, probes=2)
    np.testing.assert_allclose(probed.bits, out.bits, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"probes": 4}, "a key to draw them"),
        ({"probes": 0, "key": jr.key(0)}, "probes=0 of the trace: one at least"),
        ({"solver": "Tsit"}, "did you mean 'Tsit5'"),
    ],
)
def test_bad_options_are_explained(options, match):
    model = exact_model(PARAMETERIZATIONS["edm"], Gaussian.isotropic(0.5))
    with pytest.raises(OptionError, match=match):
        log_likelihood(model, jnp.zeros(2), **options)


def test_a_consistency_model_has_no_likelihood(tmp_path):
    teacher = Run.create(tmp_path / "t", compose(["trigflow", "diffusion"]))
    student = Run.create(tmp_path / "s", compose(["trigflow", "scd"], teacher=tmp_path / "t"))
    with pytest.raises(UsageError, match=r"no probability-flow ODE, but its teacher has: .*t$"):
        bits_per_dimension(student)
    with pytest.raises(UsageError, match="is a diffusion model"):
        _ = teacher.consistency_model
    teacher.model = exact_model(PARAMETERIZATIONS["trigflow"], Gaussian.isotropic(0.5))
    with pytest.raises(UsageError, match="1 samples of the test split: an interval needs two"):
        bits_per_dimension(teacher, n=1)
