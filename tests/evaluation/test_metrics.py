"""Metrics against closed forms, against the papers' formulas as plain loops, and against scipy."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scmkit_plugins.metrics import _pairwise
from scmkit_plugins.metrics.frechet_infinity import intercept

from scmkit.composing.build import build_free
from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import Slot


def metric(name: str, **options) -> AbstractMetric:
    return build_free(Slot.metric, name, options)


def evaluation(samples, reference=None, probabilities=None) -> Evaluation:
    reference = samples if reference is None else reference
    return Evaluation(samples, reference, reference, probabilities=probabilities)


def score(name: str, x, y, **options) -> float:
    given = evaluation(x, y)
    measure = metric(name, **options)
    assert measure.applies(given)
    return measure(given)


def clouds(n: int, m: int, d: int, seed: int = 0):
    """Two correlated clouds, apart and of different shapes, in float32 as features are."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    x, y = x @ rng.normal(size=(d, d)), y @ rng.normal(size=(d, d)) + 1
    return (x / np.sqrt(d)).astype(np.float32), (y / np.sqrt(d)).astype(np.float32)


# Fréchet distance.


def by_scipy(x, y) -> float:
    """The usual implementation of FID: the square root of the product of the covariances."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b)
    gap = x.mean(0) - y.mean(0)
    return float(gap @ gap + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)


@pytest.mark.parametrize(("n", "m", "d"), [(500, 400, 64), (40, 50, 64), (90, 40, 64), (9, 7, 1)])
def test_frechet_distance_is_the_usual_one(n, m, d):
    x, y = clouds(n, m, d)
    if d == 1:
        wanted = (x.mean(dtype=float) - y.mean(dtype=float)) ** 2
        wanted += (x.std(ddof=1, dtype=float) - y.std(ddof=1, dtype=float)) ** 2
    else:
        wanted = by_scipy(x, y)
    assert score("frechet-distance", x, y) == pytest.approx(wanted, rel=1e-6)
    assert score("fid", x, y) == score("frechet-distance", x, y)


def exactly(n: int, std, mean, axes):
    """Vectors whose mean and covariance, `axes diag(std^2) axes^T`, are exactly these."""
    rng = np.random.default_rng(n)
    white = rng.normal(size=(n, len(std)))
    white = np.linalg.qr(white - white.mean(0))[0] * np.sqrt(n - 1)
    return white * std @ axes.T + mean


@pytest.mark.parametrize("rank", [12, 5])
def test_frechet_distance_of_gaussians_that_commute(rank):
    """The squared distance of the means and of the standard deviations, for singular covariances, too."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    a, b, mean = rng.uniform(0, 3, 12), rng.uniform(0, 3, 12), rng.normal(size=12)
    a[rank:] = 0
    b[2 * rank :] = 0
    x, y = exactly(100, a, mean, axes), exactly(60, b, 2 * mean, axes)
    wanted = mean @ mean + ((a - b) ** 2).sum()
    assert score("frechet-distance", x, y) == pytest.approx(wanted, rel=1e-12)
    assert 0 <= score("frechet-distance", x, x) < 1e-12


@pytest.mark.parametrize(("d", "n"), [(8, 100), (32, 150)])
@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_the_distance_of_infinitely_many_samples_is_nearer_the_exact_one(d, n, gap):
    """Of Gaussians with standard deviations `a` and `b`: `d (a - b)^2` beside the means' distance."""
    rng = np.random.default_rng(0)
    exact = gap**2 + d * 0.1**2
    pairs = [(1.1 * rng.normal(size=(n, d)), rng.normal(size=(n, d))) for _ in range(5)]
    for x, _ in pairs:
        x[:, 0] += gap
    plain, extrapolated = (
        np.mean([score(f"frechet-distance{name}", x, y) for x, y in pairs])
        for name in ("", "-infinity")
    )
    assert abs(extrapolated - exact) < 0.5 * abs(plain - exact)


@given(st.floats(-9, 9), st.floats(-9, 9), st.integers(2, 9))
def test_the_line_goes_through_its_points(start, slope, count):
    x = np.linspace(1, 4, count)
    assert intercept(x, start + slope * x) == pytest.approx(start, abs=1e-9)


def test_training_data_are_no_copies_of_themselves():
    """Neighbors on a line are 1 apart, in one pair .1, the reference .5 from its own."""
    train = np.asarray([[0.0], [1.0], [2.0], [3.0], [3.1]])
    reference = train + np.asarray([[0.5]] * 4 + [[0.45]])
    near = metric("near-copies", quantile=0.5)
    assert near(Evaluation(train, reference, train)) == 1
    assert near.leave_one_out(Evaluation(train, reference, train)) == pytest.approx(2 / 5)
    assert near.leave_one_out(Evaluation(train[:1], reference, train)) == 0
    assert metric("recall").leave_one_out(Evaluation(train, reference, train)) is None


# Kernel Inception distance.


def test_kid_is_the_mean_over_pairs():
    x, y = clouds(13, 9, 5)

    def kernel(a, b) -> float:
        return (float(a.astype(np.float64) @ b) / 5 + 1) ** 3

    within = [
        np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])
        for s in (x, y)
    ]
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert score("kid", x, y) == pytest.approx(sum(within) - 2 * across, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kid_is_unbiased(shift):
    """In one dimension MMD^2 is 3 (Δm1)^2 + 3 (Δm2)^2 + (Δm3)^2 of the moments m."""
    rng, kid = np.random.default_rng(0), metric("kid")
    pairs = [(rng.normal(size=(20, 1)), rng.normal(shift, size=(30, 1))) for _ in range(500)]
    draws = [kid(evaluation(x, y)) for x, y in pairs]
    wanted = 3 * shift**2 + 3 * shift**4 + (shift**3 + 3 * shift) ** 2
    error = np.std(draws) / np.sqrt(len(draws))
    assert abs(np.mean(draws) - wanted) < 3 * error
    assert min(draws) < 0 or shift


# Precision, recall, density, coverage.


def by_loops(x, y, k: int) -> dict[str, float]:
    """As the papers have it (arXiv 1904.06991, Equations 1 and 2; 2002.09797, Equations 3 and 4)."""

    def reach(points, i) -> float:
        others = [np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i]
        return sorted(others)[k - 1]

    real, fake = [reach(y, i) for i in range(len(y))], [reach(x, j) for j in range(len(x))]

    def near(p, q, r) -> bool:
        return bool(np.linalg.norm(p - q) <= r)

    held = [[near(p, q, r) for q, r in zip(y, real, strict=True)] for p in x]
    found = [[near(q, p, r) for p, r in zip(x, fake, strict=True)] for q in y]
    return {
        "precision": np.mean([any(row) for row in held]),
        "recall": np.mean([any(row) for row in found]),
        "density": np.sum(held) / (k * len(x)),
        "coverage": np.mean([any(column) for column in zip(*held, strict=True)]),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_and_coverage_are_the_papers(k):
    x, y = clouds(40, 55, 3)
    x, y = x.astype(np.float64), y.astype(np.float64)
    for name, wanted in by_loops(x, y, k).items():
        assert wanted > 0
        assert score(name, x, y, k=k) == pytest.approx(wanted, abs=1e-12), name


def test_a_distance_that_equals_the_reach_is_within_it():
    """As in arXiv 1904.06991, Equation 1: `<=`, where the package prdc has `<`. A lattice has many ties."""
    x, y = np.random.default_rng(0).integers(0, 4, size=(2, 30, 2)).astype(np.float64)
    for k in (1, 3):
        for name, wanted in by_loops(x, y, k).items():
            assert score(name, x, y, k=k) == pytest.approx(wanted, abs=1e-12), name
    # Each point of a line of unit steps reaches its neighbours, and no further.
    line = np.arange(10.0)[:, None]
    names = ("precision", "recall", "coverage")
    assert [score(name, line + 10, line, k=1) for name in names] == [0.1] * 3


def test_density_and_coverage_of_fresh_data():
    rng = np.random.default_rng(0)
    n, m, k = 120, 80, 5
    pairs = [(rng.normal(size=(n, 3)), rng.normal(size=(m, 3))) for _ in range(60)]
    pools = np.arange(k)
    wanted = {
        "density": 1,
        "coverage": 1 - np.prod((m - 1 - pools) / (n + m - 1 - pools)),
    }
    for name, value in wanted.items():
        scores = [score(name, x, y, k=k) for x, y in pairs]
        assert abs(np.mean(scores) - value) < 3 * np.std(scores) / np.sqrt(len(scores))


def test_the_extremes_of_precision_and_recall():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(100, 4))
    alike = np.repeat(y[:1], 50, 0)
    names = ("precision", "recall", "density", "coverage")
    assert [score(name, y, y) for name in names[:2]] == [1, 1]
    assert [score(name, y + 100, y) for name in names] == [0, 0, 0, 0]
    # One real picture again and again: real, and next to none of the data.
    assert score("precision", alike, y) == 1
    assert score("recall", alike, y) == 0.01
    assert score("coverage", alike, y) < 0.2


# Scores of a classifier.


def classified(name: str, p, **options) -> float:
    samples = np.zeros((len(p), 2))
    return metric(name, **options)(evaluation(samples, samples, probabilities=p))


def test_classifier_scores_have_their_bounds():
    uniform, sure = np.full((60, 6), 1 / 6), np.eye(6)[np.repeat(np.arange(6), 10)]
    for name, options in (
        ("classifier-score", {}),
        ("classifier-score", {"splits": 5}),
        ("inception-score", {}),
    ):
        assert classified(name, uniform, **options) == pytest.approx(1)
        # Although the samples come in the order of their classes.
        assert classified(name, sure, **options) == pytest.approx(6)
        assert classified(name, sure[:30], splits=1) == pytest.approx(3)
    assert not metric("classifier-score").applies(evaluation(np.zeros((9, 2))))


def test_the_classifier_score_is_the_papers():
    p = np.random.default_rng(0).dirichlet([0.3] * 5, size=40)
    gains = [
        [sum(q * np.log(q / m)) for q, m in ((row, part.mean(0)) for row in part)]
        for part in (p[::2], p[1::2])
    ]
    wanted = np.mean([np.exp(np.mean(g)) for g in gains])
    assert classified("classifier-score", p, splits=2) == pytest.approx(wanted, rel=1e-12)


# The others, and what concerns all.


def test_diversity_is_a_ratio_of_mean_distances():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(60, 3))
    assert score("diversity", 0.5 * y + 7, y) == pytest.approx(0.5)
    assert score("diversity", np.ones((9, 3)), y) == pytest.approx(0, abs=1e-6)
    draws = [score("diversity", rng.normal(size=(4, 3)), y) for _ in range(400)]
    # Few samples bias it no more than many do.
    spread = [score("diversity", rng.normal(size=(60, 3)), y) for _ in range(100)]
    assert abs(np.mean(draws) - np.mean(spread)) < 3 * np.std(draws) / 20
    assert not metric("diversity").applies(evaluation(y, np.ones((5, 3))))


@pytest.mark.parametrize(("n", "m"), [(7, 7), (12, 18), (40, 7), (1, 5), (1200, 1200), (300, 1201)])
def test_sliced_wasserstein_is_the_exact_distance_of_the_projections(n, m):
    """Against scipy's, for sets of equal and of unequal size, with values that are tied."""
    rng = np.random.default_rng(n)
    x, y = rng.integers(-3, 4, size=(n, 2)), rng.normal(size=(m, 2))
    directions = np.random.default_rng(5).normal(size=(2, 9))
    directions /= np.linalg.norm(directions, axis=0)
    wanted = np.mean([scipy.stats.wasserstein_distance(x @ d, y @ d) for d in directions.T])
    given = np.asarray(x, float), y
    assert score("sliced-wasserstein", *given, projections=9, seed=5) == pytest.approx(wanted, 1e-9)


def test_sliced_wasserstein_sees_a_single_outlier():
    """W1 of two sets that differ in one value of 1200 is their difference over 1200, in any direction."""
    x = np.zeros((1200, 1))
    x[77] = 1000
    assert score("sliced-wasserstein", x, 0 * x) == pytest.approx(1000 / 1200, rel=1e-12)
    assert score("sliced-wasserstein", x[70:80], 0 * x) == pytest.approx(100, rel=1e-12)


def test_energy_distance_and_mmd_are_means_over_pairs():
    x, y = clouds(20, 30, 4)

    def mean(f, a, b):
        return np.mean([f(np.linalg.norm(p.astype(float) - q)) for p in a for q in b])

    def mmd(distance):
        return np.exp(-((distance / bandwidth) ** 2) / 2)

    within = [np.linalg.norm(p.astype(float) - q) for i, p in enumerate(y) for q in y[:i]]
    bandwidth = 2 * np.median(within)
    for name, f, options in (("energy-distance", lambda r: -r, {}), ("mmd", mmd, {"scale": 2.0})):
        wanted = mean(f, x, x) + mean(f, y, y) - 2 * mean(f, x, y)
        value = score(name, x, y, **options)
        assert value ** (2 if name == "mmd" else 1) == pytest.approx(wanted, rel=1e-9)


PAIRWISE = ("energy-distance", "mmd", "near-copies", "kernel-distance", "diversity")
PAIRWISE += ("precision", "recall", "density", "coverage")


def test_blocks_change_nothing(monkeypatch):
    x, y = clouds(70, 50, 6)
    whole = [score(name, x, y) for name in PAIRWISE]
    monkeypatch.setattr(_pairwise, "BLOCK", 333)
    assert len(list(_pairwise.products(x, y))) == 12
    assert [score(name, x, y) for name in PAIRWISE] == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "enough"),
    [("frechet-distance", 2), ("kid", 2), ("diversity", 2), ("precision", 4), ("coverage", 6)],
)
def test_too_few_samples_do_not_apply(name, enough):
    x, y = clouds(enough, 20, 3)
    assert np.isfinite(score(name, x, y))
    assert not metric(name).applies(evaluation(x[:-1], y))
