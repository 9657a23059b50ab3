"""Rows of known corruptions of real data."""

import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmkit import Run, build_model, compose, dataset_of, evaluate
from scmkit.data import StoreWriter
from scmkit.errors import UsageError
from scmkit.evaluation import remarks
from scmkit.evaluation.calibration import blurred, corruptions
from scmkit.evaluation.real import RealData

TINY = {"mlp.width": 8, "mlp.depth": 1, "mlp.embedding_dim": 8, "positional.channels": 8}


def made(folder, data: str) -> Run:
    """A run whose model has fresh weights."""
    run = Run.create(folder, compose(["trigflow", "sct"], TINY, data=data, teacher="none"))
    run.model = build_model(run.recipe, key=jr.key(0))
    return run


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Run:
    return made(tmp_path_factory.mktemp("runs") / "r", "digits")


def test_images_in_order_of_what_was_done_to_them(digits):
    asked = {"metrics": ["energy-distance", "near-copies"], "features": "data", "steps": (1,)}
    plain = evaluate(digits, **asked, n=100, resamples=2)
    rows = evaluate(digits, **asked, n=100, resamples=2, calibrate=True)
    assert [row.name for row in rows] == [
        *(row.name for row in plain[:-1]),
        "real, noise of 0.1 std",
        "real, noise of 0.3 std",
        "real, blur of 0.5 px",
        "real, blur of 1 px",
        "50 real samples repeated",
        "uniform noise",
        plain[-1].name,
    ]
    rows = rows[1:]  # Two rows of real data: splits of it, and training data against the others.
    assert [row.metrics for row in (rows[0], rows[1], rows[-1])] == [
        row.metrics for row in plain[1:]
    ]
    assert {(row.n, row.nfe) for row in rows[:-1]} == {(100, None)}
    distance = [row.metrics["energy-distance"] for row in rows[2:-1]]
    assert distance[0] < distance[1] < distance[-1]
    assert distance[2] < distance[3] < distance[-1]
    assert plain[0].metrics["energy-distance"] < min(distance[1:])
    # What is corrupted is training data: where it is hardly changed, it is a copy.
    assert [rows[i].metrics["near-copies"] for i in (2, 6, 7)] == [1, 1, 0]


def test_what_is_corrupted_has_the_classes_of_drawn_samples(digits):
    """Else a part of every distance would be that of the classes' numbers."""
    dataset, rng = dataset_of(digits.recipe), np.random.default_rng(0)
    labels = dataset.labels("train")
    assert labels is not None
    for n in (100, 1297):  # Of all, some stand in for others.
        real = RealData.choose(dataset, "test", n, rng)
        chosen = real.like_drawn(n, rng)
        assert len({*chosen.tolist()}) == n
        alike = labels[chosen] == np.asarray(real.conditioning(n).label)
        assert alike.all() if n == 100 else alike.mean() > 0.9


def test_fewer_than_other_rows_and_vectors(tmp_path):
    x = np.random.default_rng(0).normal(size=(36, 2)).astype(np.float32)
    with StoreWriter(tmp_path / "few.store", shape=(2,), dtype="float32") as writer:
        writer.append("train", x[:12])
        writer.append("test", x[12:])
    run = made(tmp_path / "few", str(tmp_path / "few.store"))
    asked = {"metrics": ["energy-distance"], "steps": (1,)}
    rows = evaluate(run, **asked, n=50, resamples=2, calibrate=True)
    assert [(row.name, row.n) for row in rows[2:-1]] == [
        ("real, noise of 0.1 std", 12),
        ("real, noise of 0.3 std", 12),
        ("6 real samples repeated", 12),
        ("uniform noise", 12),
    ]
    assert "uniform noise: all there are, where other rows have 50" in "\n".join(remarks(rows))
    with StoreWriter(tmp_path / "one.store", shape=(2,), dtype="float32") as writer:
        writer.append("train", x)
    with pytest.raises(UsageError, match="calibration needs a train and a test split"):
        evaluate(
            made(tmp_path / "one", str(tmp_path / "one.store")),
            **asked,
            split="train",
            calibrate=True,
        )


@settings(max_examples=15)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(1e-3, 10))
def test_a_blur_keeps_what_is_even_and_the_range(height, width, sigma):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, height, width)).astype(np.float32)
    found = blurred(images, sigma)
    assert (found.shape, found.dtype) == (images.shape, np.float32)
    assert np.abs(found).max() <= np.abs(images).max() + 1e-6
    np.testing.assert_allclose(blurred(np.ones_like(images), sigma), 1, atol=1e-6)
    if sigma < 0.1:
        np.testing.assert_allclose(found, images, atol=1e-6)


@settings(max_examples=15)
@given(st.integers(1, 130), st.sampled_from([(1,), (3,), (2, 4, 4), (1, 2, 3, 2)]))
def test_corruptions_of_any_number_and_shape(n, shape):
    samples = np.random.default_rng(n).normal(size=(n, *shape)).astype(np.float32)
    found = dict(corruptions(samples, np.ones(shape[0], np.float32), np.random.default_rng(0)))
    assert len(found) == (6 if len(shape) == 3 else 4)
    for x in found.values():
        assert (x.shape, x.dtype) == (samples.shape, np.float32)
    few = min(50, max(1, n // 2))
    assert len(np.unique(found[f"{few} real samples repeated"], axis=0)) == few
    assert samples.min() <= found["uniform noise"].min() <= found["uniform noise"].max()
    assert found["uniform noise"].max() <= samples.max()
