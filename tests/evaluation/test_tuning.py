"""The search for the times of consistency sampling."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scmkit_plugins.processes.trigflow import TrigFlowParameterization

from scmkit import Model, Run, compose, search_angles
from scmkit.composing.build import build_model
from scmkit.errors import UsageError
from scmkit.evaluation.tuning import Candidate, golden_section, tied
from scmkit.interfaces import AbstractNetwork

BEST = 0.6


class GoodAtOneTime(AbstractNetwork):
    """Sends noise to data at the angle `BEST`, and the farther from it, the farther from data."""

    def __call__(self, x, c_noise, cond, *, key):
        t = c_noise[0]
        # f = cos(t) x - sin(t) sigma_d F is an offset plus a draw of the data's spread.
        wanted = 0.5 * x / jnp.sqrt(jnp.mean(x**2)) + 4 * (t - BEST) ** 2
        return (jnp.cos(t) * 0.5 * x - wanted) / (0.5 * jnp.sin(t))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = compose(["trigflow", "sct"], {"gmm.dimension": 8, "gmm.size": 500}, data="gmm")
    run = Run(tmp_path_factory.mktemp("runs"), recipe)
    process = build_model(recipe, key=jr.key(0)).process
    param = TrigFlowParameterization(process, 0.5)
    run.__dict__["model"] = Model(param, GoodAtOneTime())
    return run


def test_golden_section():
    calls = []

    def valley(a):
        calls.append(a)
        return abs(a - 0.37)

    assert abs(golden_section(valley, 0.0, 2.0, 20) - 0.37) < 2 * 0.618**18
    assert len(calls) == 20


def test_candidates_whose_difference_is_noise_are_tied():
    """Both have the same noise, so that what counts is the spread of the difference, not of either."""
    noise = np.random.default_rng(0).normal(size=50)
    candidates = [
        Candidate(1.3, 0.20, 0.20 + noise + 0.02 * np.resize((1, -1), 50)),
        Candidate(0.9, 0.21, 0.21 + noise),
        Candidate(1.1, 0.22, 0.22 + noise - 0.02 * np.resize((1, -1), 50)),
        Candidate(0.5, 0.60, 0.60 + noise),
    ]
    assert [c.angle for c in tied(candidates)] == [0.9, 1.1, 1.3]


def test_the_best_time_is_found(run):
    tried = []
    found = search_angles(run, n=300, progress=lambda angles, score: tried.append(angles))
    assert abs(found.angles[0] - BEST) < 0.1, found
    assert found.default == pytest.approx((1.1,))
    assert found.better
    assert found.gain == pytest.approx(found.default_score - found.score)
    assert len(tried) == 16
    [(low, high)] = found.ties
    assert low <= found.angles[0] <= high
    assert high - low < 0.3, found


def test_later_times_are_searched_below_earlier_ones(run):
    found = search_angles(run, steps=3, n=100, evaluations=6)
    first, second = found.angles
    assert 0 < second < first
    np.testing.assert_allclose(found.default, (1.1, 0.55), rtol=1e-6)


def test_what_cannot_be_searched(run):
    with pytest.raises(UsageError, match="at least two"):
        search_angles(run, steps=1)
    with pytest.raises(UsageError, match="cannot be computed here: it needs data whose density"):
        search_angles(run, metric="exact-map", n=10)
