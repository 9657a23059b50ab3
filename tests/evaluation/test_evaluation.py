"""Evaluation: streamed, in any space, with intervals that cover, beside what real data scores."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fake_distributions import Installer
from hypothesis import given
from hypothesis import strategies as st
from scmkit_plugins.datasets import digits
from scmkit_plugins.metrics import energy_distance
from scmkit_plugins.samplers.consistency import ConsistencySampler

from scmkit import Run, build_model, compose, evaluate
from scmkit.data import ArrayDataset, StoreWriter
from scmkit.errors import OptionError, PluginError, UsageError
from scmkit.evaluation import (
    GAUSSIAN,
    LEAVE_ONE_OUT,
    REAL,
    Row,
    baselines,
    remarks,
    usual,
    usual_features,
)
from scmkit.evaluation.comparison import Comparison
from scmkit.evaluation.intervals import resampled_indices
from scmkit.evaluation.real import RealData
from scmkit.evaluation.spaces import Space
from scmkit.interfaces import AbstractMetric, Conditioning, Evaluation, Features
from scmkit.plugin import NoOptions
from scmkit.sampling import draw, draw_batches, prior

TINY = {
    "mlp.width": 8,
    "mlp.depth": 1,
    "mlp.embedding_dim": 8,
    "positional.channels": 8,
}
PLUGINS = """
import numpy as np
from scmkit.interfaces import AbstractFeatures, AbstractMetric, Evaluation, Features
from scmkit.plugin import NoOptions, Plugin, Slot


class Halves(AbstractFeatures):
    digest = "ab" * 16
    facts = {"halves": 2.0}
    calls = []

    def __call__(self, samples):
        assert np.abs(samples).max() <= 1
        self.calls.append(len(samples))
        x = samples.reshape(len(samples), 2, -1).mean(2)
        classes = np.full((len(x), 2), 0.5, np.float32)
        return Features(x, classes)


class Dimensions(AbstractMetric):
    larger_is_better = True

    def __init__(self, space):
        self.space = space

    def applies(self, evaluation: Evaluation) -> bool:
        return self.space is None or evaluation.probabilities is not None

    def __call__(self, evaluation: Evaluation) -> float:
        sizes = {a.shape[1] for a in (evaluation.samples, evaluation.reference, evaluation.train)}
        assert len(sizes) == 1
        return float(sizes.pop())


features = Plugin("halves", "means of two halves", {Slot.features: lambda c, d, p: Halves()})
own = Plugin("own", "dimensions of halves", {Slot.metric: lambda c: Dimensions("halves")})
any_ = Plugin("any", "dimensions of any space", {Slot.metric: lambda c: Dimensions(None)})
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run on digits whose model has fresh weights."""
    path = tmp_path_factory.mktemp("runs") / "r"
    run = Run.create(path, compose(["trigflow", "sct"], TINY, data="digits"))
    run.model = build_model(run.recipe, key=jr.key(0))
    return run


@pytest.fixture
def halves(tmp_path, monkeypatch):
    """The features above, and metrics of their space and of any."""
    monkeypatch.setenv("SCMKIT_CACHE", str(tmp_path / "cache"))
    names = {"halves": "features", "own": "own", "any": "any_"}
    Installer(tmp_path / "site", monkeypatch)("halves-pack", names, source=PLUGINS)


def test_values_are_those_of_everything_at_once(run):
    metrics = ["energy-distance", "near-copies"]
    rows = evaluate(run, n=60, steps=(1, 2), metrics=metrics, features="data", seed=3)
    dataset, metric = digits.build_dataset(NoOptions()), energy_distance.EnergyDistance()
    rng = np.random.default_rng(3)
    chosen = np.sort(rng.permutation(500)[:60])
    reference, labels = dataset.read("test", chosen)
    train = dataset.read("train", np.arange(1297))[0].reshape(1297, -1)

    def score(samples: np.ndarray) -> float:
        return metric(Evaluation(samples.reshape(60, -1), reference.reshape(60, -1), train))

    chosen_data = RealData.choose(dataset, "test", 60, np.random.default_rng(3))
    everything = np.concatenate([reference.reshape(60, -1), train])
    real = [
        metric(Evaluation(everything[a], everything[b], train))
        for a, b in chosen_data.splits(60, 20, rng)
    ]
    k_noise, key = jr.split(jr.key(3))
    noise = prior(run.model, run.recipe.data, 60, key=k_noise)
    assert labels is not None
    for row, steps in zip(rows[3:], (1, 2), strict=True):
        cond = Conditioning(jnp.asarray(labels))
        out = draw(run.model, ConsistencySampler((0.6,)), noise, cond, steps=steps, key=key)
        samples = run.recipe.data.denormalize(np.asarray(out.x))
        assert row.metrics["energy-distance"] == pytest.approx(score(samples), rel=1e-6)
        assert row.nfe == steps
        assert row.seconds is not None
        assert row.seconds > 0
    assert [row.name for row in rows[:3]] == [REAL, LEAVE_ONE_OUT, GAUSSIAN]
    # By definition, of 60 reference images 3.
    copies = {"near-copies": pytest.approx(3 / 60)}
    assert rows[0].metrics == {
        "energy-distance": pytest.approx(np.mean(real), rel=1e-9),
        **copies,
    }
    assert set(rows[1].metrics) == {"near-copies"}
    half = 1.96 * np.std(real, ddof=1)
    low, high = rows[0].intervals["energy-distance"]
    assert (low, high) == (pytest.approx(np.mean(real) - half), pytest.approx(np.mean(real) + half))
    assert set(rows[2].intervals) == {"energy-distance", "near-copies"}


def test_seeds_are_averaged_and_the_first_is_that_of_one(run):
    asked = {"metrics": ["energy-distance"], "features": "data", "n": 40, "baselines": False}
    [one], [two] = (evaluate(run, **asked, steps=(1,), seeds=s) for s in (1, 2))
    first, mean = (row.metrics["energy-distance"] for row in (one, two))
    low, high = two.intervals["energy-distance"]
    assert (one.seeds, two.seeds) == (1, 2)
    # Student's t with one degree of freedom; the second value is 2 mean - first.
    assert high - mean == pytest.approx(abs(mean - first) * np.tan(0.475 * np.pi), rel=1e-9)
    assert low + high == pytest.approx(2 * mean)
    assert remarks([two])[0].startswith("means over 2 sampling seeds")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**32))
def test_splits_of_real_data_share_nothing_but_their_classes(test, train, n, seed):
    rng = np.random.default_rng(seed)
    x = {k: np.zeros((size, 2), np.float32) for k, size in (("train", train), ("test", test))}
    labels = {k: rng.integers(3, size=len(v)).astype(np.int32) for k, v in x.items()}
    told = {f"{k}_labels": v for k, v in labels.items()}
    real = RealData.choose(ArrayDataset(**x, **told, num_classes=3), "test", test, rng)
    everything = np.concatenate([labels["test"], labels["train"]])
    for one, other in real.splits(n, 3, rng):
        assert len(one) == len(other) == min(n, (test + train) // 2)
        assert len({*one, *other}) == 2 * len(one)
        # Where a class has an odd number, one of it is beside one of the next.
        assert (everything[one] != everything[other]).sum() <= 2


def test_batches_are_what_is_drawn_at_once(run, monkeypatch):
    keys = {"noise_key": jr.key(1), "key": jr.key(2)}
    given = run.model, ConsistencySampler(()), run.recipe.data
    cond = Conditioning(jnp.arange(10, dtype=jnp.int32))
    noise = prior(run.model, run.recipe.data, 10, key=jr.key(1))
    whole = draw(*given[:2], noise, cond, steps=2, key=jr.key(2))
    monkeypatch.setattr("scmkit.sampling.drawing.BATCH", 4)
    parts = list(draw_batches(*given, 10, cond, steps=2, **keys))
    assert [len(part.x) for part in parts] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate([part.x for part in parts]), whole.x, rtol=1e-5)


def test_each_metric_in_its_space(run, halves):
    told = []
    options = {"n": 20, "steps": (1,), "progress": lambda *a: told.append(a)}
    rows = evaluate(run, metrics=["any", "own"], features="data", **options)
    assert [dict(row.metrics) for row in rows] == [{"any": 64.0, "own": 2.0}] * 3
    assert rows[0].larger_is_better == {"any", "own"}
    assert rows[0].features == {"halves": {"digest": "ab" * 16, "halves": 2.0}}
    assert ("halves features of train", 1297, 1297) in told
    assert ("consistency, 1 step", 20, 20) in told
    rows = evaluate(run, metrics=["own", "any"], features="halves", baselines=False, **options)
    assert [list(row.metrics.items()) for row in rows] == [[("own", 2.0), ("any", 2.0)]]
    [row] = evaluate(run, metrics=["any"], features="data", baselines=False, **options)
    assert (row.metrics, row.features) == ({"any": 64.0}, {})


def test_features_of_real_data_that_are_kept_give_the_same_rows(run, halves):
    from halves_pack import Halves  # pyright: ignore[reportMissingImports]

    def rows():
        Halves.calls.clear()
        found = evaluate(run, metrics=["energy-distance"], features="halves", n=300, steps=(1,))
        return [(row.metrics, row.intervals) for row in found], list(Halves.calls)

    first, calls = rows()
    again, fewer = rows()
    assert first == again
    # All of one shape: 300 test and 1297 train samples, 300 Gaussian and 300 drawn ones.
    assert calls == [256] * (2 + 6 + 2 + 2)
    assert fewer == [256] * 4


def test_what_is_usual_in_a_space(run, halves, monkeypatch):
    monkeypatch.setattr(usual, "FEATURE_METRICS", ("sliced-wasserstein", "not-installed"))
    [row] = evaluate(run, features="halves", n=20, steps=(1,), baselines=False, resamples=0)
    assert set(row.metrics) == {"sliced-wasserstein"}
    assert row.intervals == {}


def test_images_with_classes_are_compared_in_a_classifiers_features(run, halves, monkeypatch):
    assert usual_features(digits.build_dataset(NoOptions())) == "classifier"
    x, labels = np.zeros((4, 2), np.float32), np.arange(4, dtype=np.int32) % 2
    plane = ArrayDataset(x, x, train_labels=labels, test_labels=labels, num_classes=2)
    assert usual_features(plane) == "data"
    assert usual_features(ArrayDataset(*2 * [np.zeros((4, 1, 8, 8), np.float32)])) == "data"
    monkeypatch.setattr(usual, "CLASSIFIER", "halves")
    monkeypatch.setattr(usual, "FEATURE_METRICS", ("precision", "recall"))
    [row] = evaluate(run, n=20, steps=(1,), baselines=False)
    assert set(row.metrics) == {"precision", "recall"}
    assert set(row.features) == {"halves"}
    monkeypatch.setattr(usual, "CLASSIFIER", "not-installed")
    assert usual_features(digits.build_dataset(NoOptions())) == "data"


@pytest.fixture
def few(tmp_path) -> Run:
    """A run on data of 12 training and 24 test vectors, whose model has fresh weights."""
    x = np.random.default_rng(0).normal(size=(36, 2)).astype(np.float32)
    with StoreWriter(tmp_path / "few.store", shape=(2,), dtype="float32") as writer:
        writer.append("train", x[:12])
        writer.append("test", x[12:])
    made = compose(["trigflow", "sct"], TINY, data=str(tmp_path / "few.store"), teacher="none")
    run = Run.create(tmp_path / "few", made)
    run.model = build_model(run.recipe, key=jr.key(0))
    return run


def test_rows_of_one_table_have_one_number_of_samples_or_say_theirs(few):
    rows = evaluate(few, metrics=["energy-distance"], steps=(1,))
    assert {row.n for row in rows} == {12}
    assert (rows[0].name, remarks(rows)) == (REAL, [])
    rows = evaluate(few, metrics=["energy-distance"], steps=(1,), n=50)
    assert [row.n for row in rows] == [18, 50, 50]
    assert rows[0].name == "real data, 18 samples"
    [told] = remarks(rows)
    assert told.startswith("real data, 18 samples: all there are, where other rows have 50")
    real = evaluate(few, metrics=["energy-distance"], steps=(1,), split="train", n=12)[0]
    assert (real.name, real.n) == (REAL, 12)


def test_a_metric_that_cannot_be_computed_is_named_with_what_it_needs(few):
    asked = ["energy-distance", "precision", "exact-map", "classifier-score", "near-copies"]
    rows = evaluate(few, metrics=asked, steps=(1, 2), n=3, resamples=0)
    assert set(rows[3].metrics) == {"energy-distance", "near-copies"}
    assert set(rows[0].missing) == {*asked} - {"energy-distance", "near-copies"}
    assert remarks(rows) == [
        "precision: not computed: it needs more than 3 samples and more than 3 real ones",
        "exact-map: not computed: it needs data whose density is known, and a sampler that adds no noise on "
        "the way",
        "classifier-score: not computed: it needs features that classify, and 1 or more samples",
    ]
    with pytest.raises(UsageError, match="'near-copies' with --split train: it looks for training"):
        evaluate(few, metrics=["near-copies"], steps=(1,), split="train")


def test_the_exact_map_is_told_where_steps_add_noise():
    why = {"exact-map": "it needs a sampler that adds no noise on the way"}
    one, two = Row("one", 1, {"exact-map": 0.1}), Row("two", 2, {}, missing=why)
    assert remarks([one, two]) == [f"exact-map: not computed for two: {why['exact-map']}"]


def test_against_the_training_split(run):
    asked = {"metrics": ["mmd", "near-copies"], "features": "data"}
    rows = evaluate(run, **asked, split="train", n=30, steps=(1,))
    assert [row.name for row in rows] == [REAL, GAUSSIAN, "consistency, 1 step"]
    assert {name for row in rows for name in row.metrics} == {"mmd"}
    [told] = remarks(rows)
    assert told.startswith("near-copies: not computed: it looks for training data")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"resamples": 1}, UsageError, "--resamples 1: give 2 or more"),
        ({"n": 0}, UsageError, "n 0: give a whole number"),
        ({"features": "mmd"}, PluginError, "plugin 'mmd' is no features"),
        ({"features": "classifer"}, PluginError, "did you mean 'classifier'"),
        ({"settings": {"mdm": {"a": "1"}}}, OptionError, r"'mdm\.a'.* did you mean 'mmd'"),
    ],
)
def test_what_makes_no_sense_is_said(run, options, error, match):
    with pytest.raises(error, match=match):
        evaluate(run, **{"metrics": ["mmd"], "features": "data"} | options)


class Mean(AbstractMetric):
    """The mean of one-dimensional samples, of known distribution."""

    def applies(self, evaluation: Evaluation) -> bool:
        return True

    def __call__(self, evaluation: Evaluation) -> float:
        return float(evaluation.samples.mean())


class QuickMean(Mean):
    """The same, with all resamples at once."""

    def resampled(self, evaluation: Evaluation, indices: np.ndarray) -> np.ndarray:
        return evaluation.samples[indices].mean((1, 2))


def interval(samples: np.ndarray, metric: AbstractMetric, resamples: int, seed: int = 0):
    real = Features(np.zeros((3, 1)))
    space = Space("data", {"mean": metric}, None, batch=1)
    indices = resampled_indices(len(samples), resamples, seed)
    _, intervals = Comparison(space, real, real, real, indices)(Features(samples))
    return intervals["mean"]


def test_intervals_are_as_wide_as_theory_says():
    x = np.random.default_rng(0).normal(5, 2, size=(400, 1))
    low, high = interval(x, Mean(), 2000)
    assert (low, high) == pytest.approx(interval(x, QuickMean(), 2000), rel=1e-9)
    assert (low + high) / 2 == pytest.approx(x.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * x.std() / np.sqrt(400), rel=0.05)


def test_intervals_cover():
    rng = np.random.default_rng(0)
    mean = QuickMean()
    intervals = [interval(rng.normal(size=(200, 1)), mean, 20, seed) for seed in range(1000)]
    # P(|t| < 1.96) with the 19 degrees of freedom of a standard deviation from 20 resamples.
    covered = np.mean([low < 0 < high for low, high in intervals])
    assert covered == pytest.approx(0.935, abs=0.02)


def test_other_samples_at_given_indices():
    rng = np.random.default_rng(0)
    x, exact, p = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.random((4, 2))
    whole = Evaluation(x, x, x, exact, p)
    some = whole.at(np.asarray([2, 2]))
    np.testing.assert_array_equal(some.samples, x[[2, 2]])
    np.testing.assert_array_equal(some.exact, exact[[2, 2]])
    np.testing.assert_array_equal(some.probabilities, p[[2, 2]])
    np.testing.assert_array_equal(some.reference, x)


@pytest.mark.parametrize("limit", [0, 4096])
def test_gaussians_have_the_datas_moments(monkeypatch, limit):
    monkeypatch.setattr(baselines, "_EIGENVECTORS", limit)
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 7).astype(np.float32)
    drawn = baselines.gaussian(rng, data, 20_000)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.mean(0), data.mean(0), atol=0.05)
    scale = np.cov(data, rowvar=False).max()
    np.testing.assert_allclose(
        np.cov(drawn, rowvar=False), np.cov(data, rowvar=False), atol=0.03 * scale
    )
