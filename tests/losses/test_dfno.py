"""DFNO: Fourier layers over time, trajectories as they are stored, and the loss on them."""

from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.distances.l1 import L1
from scmkit_plugins.layers.temporal_fourier import TIMES, TemporalFourier
from scmkit_plugins.methods import dfno
from scmkit_plugins.methods._data_tangent import DataTangent
from scmkit_plugins.networks import operator
from scmkit_plugins.processes.log_normal import LogNormal
from scmkit_plugins.samplers import ddim, pf_ode

from scmkit import build, build_model, compose, dataset_of
from scmkit.data import ArrayDataset, Loader, spec_of
from scmkit.data.layout import PairsRecord
from scmkit.errors import PluginError, UsageError
from scmkit.interfaces import UNCONDITIONED, AbstractOperator, DataSpec, Sample, Scene
from scmkit.models.model import Model
from scmkit.sampling import times_of, write_pairs
from scmkit.settings import configure
from scmkit.testing import exact_model
from scmkit.testing.numeric import jittered
from scmkit.testing.oracles import Gaussian

STD, RATIOS = 0.5, (4.0, 0.9, 0.2)
PARAM = build_model(
    compose(["vp", "mlp", "diffusion"], {}, data=DataSpec("test", (3,), 0, (0.0,), (1.0,))),
    key=jr.key(0),
).parameterization


@pytest.mark.parametrize("times", [1, 2, 4, 5])
@pytest.mark.parametrize("modes", [1, 2, 3])
def test_the_fourier_layer_is_the_transform_of_its_times(times, modes):
    rng = np.random.default_rng(0)
    h, weight = rng.standard_normal((times, 3, 2)), rng.standard_normal((2, modes, 2, 2))
    ft = np.fft.rfft(h, axis=0)[:modes]
    matrices = (weight[0] + 1j * weight[1])[: len(ft)]
    due = np.fft.irfft(np.einsum("ksc,kcd->ksd", ft, matrices), n=times, axis=0)
    due = h + due / (1 + np.exp(-due))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        layer = TemporalFourier(2, modes)
        layer = jax.tree.map(lambda a: jnp.asarray(weight), layer)
        got = jax.vmap(layer, axis_name=TIMES)(jnp.asarray(h))
        np.testing.assert_allclose(got, due, atol=1e-12)


def network_of(**settings: Any) -> operator.Operator:
    data = DataSpec("test", (3,), 0, (0.0,), (1.0,), paired=True, times=RATIOS)
    small = {"operator-mlp.width": 8, "operator-mlp.depth": 2, "operator-mlp.embedding_dim": 8}
    recipe = compose(["vp", "dfno"], small | settings, data=data)
    network = jittered(build_model(recipe, key=jr.key(0))).network
    assert isinstance(network, operator.Operator)
    return network


def test_an_operator_gives_all_times_of_which_the_data_is_the_last():
    network, x, label = network_of(), jnp.ones(3), jnp.asarray([0.3])
    trajectory = network.trajectory(x, label, UNCONDITIONED, key=None)
    assert trajectory.shape == (4, 3)
    assert len(np.unique(np.asarray(trajectory)[:, 0])) == 4
    np.testing.assert_array_equal(network(x, label, UNCONDITIONED, key=None), trajectory[-1])


class Exact(AbstractOperator):
    """The operator of N(0, STD^2): all jumps from the noise are linear."""

    off: jax.Array

    def trajectory(self, x, c_noise, cond, *, key):
        process, T = PARAM.process, PARAM.process.t_max
        noise = x / PARAM.coefficients(T).in_
        times = [process.time_at(jnp.asarray(r)) for r in RATIOS]

        def output(t, state):
            a, b = PARAM.jump(T, t)
            return (state - a * noise) / b

        states = [process.alpha(t) * y for t, y in zip(times, signals(noise), strict=False)]
        ends = [*times, jnp.zeros(())]
        states.append(signals(noise)[-1])
        return jnp.stack([output(t, s) for t, s in zip(ends, states, strict=True)]) + self.off

    def __call__(self, x, c_noise, cond, *, key):
        return self.trajectory(x, c_noise, cond, key=key)[-1]


def signals(noise) -> list[Any]:
    """The states from a noise over alpha at `RATIOS` and at the data, by the flow of a Gaussian."""
    T = PARAM.process.t_max
    start = noise / PARAM.process.alpha(T)
    size = jnp.hypot(STD, PARAM.process.ratio(T))
    return [start * jnp.hypot(STD, r) / size for r in (*RATIOS, 0.0)]


def test_the_loss_is_zero_on_exact_trajectories(getkey):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        eps = jr.normal(getkey(), (3,), jnp.float64)
        *states, x0 = signals(PARAM.process.sigma(PARAM.process.t_max) * eps)
        sample = Sample(x0, eps=eps, states=jnp.stack(states))
        loss = dfno.DFNOLoss(dfno.Options(), L1(), RATIOS)
        tangent = DataTangent(PARAM.process)
        scene = Scene(jnp.zeros((), int), jnp.zeros(()), LogNormal(), tangent)
        exact, off = (
            Model(parameterization=PARAM, network=Exact(jnp.asarray(o))) for o in (0.0, 0.1)
        )
        # Times are of float32, and the sample's weight is 1e4.
        assert loss(exact, scene, sample, key=getkey()).value < 1e-2
        assert loss(off, scene, sample, key=getkey()).value > 10
        with pytest.raises(ValueError, match="the coupling 'stored'"):
            loss(exact, scene, Sample(x0, eps=eps), key=getkey())


def stored(tmp_path, times: int, n: int = 6):
    """A store of trajectories of the exact model of Gaussian images."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.4, (64, 1, 2, 2)).astype(np.float32)
    dataset = ArrayDataset(images, images[:4])
    data, model = spec_of(dataset, "test"), exact_model(PARAM, Gaussian.isotropic(STD))
    options = configure(pf_ode.Options, {"grid": "quadratic"}, "pf-ode")
    sampler = pf_ode.PFODESampler(options)
    record = PairsRecord(
        "run",
        1,
        "0",
        "vp",
        {},
        float(PARAM.process.sigma(PARAM.process.t_max)),
        "pf-ode",
        asdict(options),
        64,
        0,
        times=times_of(sampler, "pf-ode", model, 64, times),
    )
    return write_pairs(tmp_path / "store", model, data, dataset, n, sampler, record), data, model


def test_trajectories_are_stored_and_read_as_they_were(tmp_path):
    store, data, model = stored(tmp_path, 4)
    # Equal steps of the root of time, from 1 to nearly 0: 9/16, 4/16, 1/16.
    due = [model.process.ratio(model.process.t_max * (i / 4) ** 2) for i in (3, 2, 1)]
    np.testing.assert_allclose(store.times, due, rtol=0.2)
    with Loader(store, data, 6, seed=1, noise=True) as loader:
        x0, _ = next(loader)
        eps, states = loader.last_noise, loader.last_states
    assert eps is not None
    assert states is not None
    assert states.shape == (6, 3, 1, 2, 2)
    # The flow of a Gaussian scales each state alone, by the deviation there.
    largest = float(model.process.ratio(model.process.t_max))
    ends = np.hypot(STD, np.asarray([*store.times, 0])) / np.hypot(STD, largest)
    flow = largest * eps[:, None] * ends[:, None, None, None]
    np.testing.assert_allclose(states, flow[:, :3], rtol=0.02, atol=5e-3)
    np.testing.assert_allclose(
        data.normalize(store.read("train", np.arange(6))[0]).std(), flow[:, 3].std(), rtol=0.05
    )
    assert np.corrcoef(x0.ravel(), flow[:, 3].ravel())[0, 1] > 0.999


def test_a_trajectory_needs_a_sampler_that_tells_it_an_operator_and_steps_that_divide(tmp_path):
    store, _, model = stored(tmp_path, 2, n=2)
    sampler = pf_ode.PFODESampler(pf_ode.Options())
    with pytest.raises(UsageError, match="set --steps to a multiple of 4"):
        times_of(sampler, "pf-ode", model, 18, 4)
    with pytest.raises(UsageError, match="does not tell the states"):
        times_of(ddim.DDIM(options=ddim.Options()), "ddim", model, 16, 4)
    recipe = compose(["vp", "mlp", "dfno"], {}, data=str(store.path))
    assert dataset_of(recipe).times == recipe.data.times == store.times
    with pytest.raises(PluginError, match="--plugin operator-mlp"):
        build(recipe, key=jr.key(0))
