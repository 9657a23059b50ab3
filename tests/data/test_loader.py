"""The loader: every batch full, its order a function of seed and position alone."""

import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmkit.data import ArrayDataset, Loader, spec_of
from scmkit.errors import DataError


def counting(size, labelled=True):
    """A data set whose samples say which they are."""
    x = np.stack([np.arange(size), -np.arange(size)], axis=1).astype(np.float32)
    labels = {
        "train_labels": np.arange(size) % 3,
        "test_labels": np.arange(2),
        "num_classes": 3,
    }
    return ArrayDataset(x, x[:2], **(labels if labelled else {}))


def which(dataset, batch):
    raw = spec_of(dataset, "counting").denormalize(batch[0])
    np.testing.assert_allclose(raw[:, 0], -raw[:, 1], atol=1e-3)
    return np.round(raw[:, 0]).astype(int)


def loader_of(dataset, batch_size, seed=0, **options):
    return Loader(dataset, spec_of(dataset, "counting"), batch_size, seed, **options)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(2, 40),
    batch_size=st.integers(1, 100),
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 5),
)
def test_order_depends_on_seed_and_position_alone(size, batch_size, seed, start):
    dataset = counting(size)
    with loader_of(dataset, batch_size, seed) as loader:
        batches = [next(loader) for _ in range(start + 3)]
    seen = np.concatenate([which(dataset, batch) for batch in batches])
    assert {len(batch[0]) for batch in batches} == {batch_size}
    for epoch in range(len(seen) // size):
        assert set(seen[epoch * size : (epoch + 1) * size]) == set(range(size))
    for x, labels in batches:
        np.testing.assert_array_equal(labels, which(dataset, (x, labels)) % 3)
    with loader_of(dataset, batch_size, seed, start=start) as loader:
        for expected in batches[start:]:
            np.testing.assert_array_equal(next(loader)[0], expected[0])


def test_batches_are_normalised_float32():
    dataset = counting(1000)
    with loader_of(dataset, 1000) as loader:
        x, labels = next(loader)
    assert labels is not None
    assert (x.dtype, labels.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 0.5, atol=1e-5)


def test_epochs_and_seeds_differ():
    dataset = counting(30, labelled=False)
    orders = []
    for seed in (0, 1):
        with loader_of(dataset, 30, seed) as loader:
            orders += [tuple(which(dataset, next(loader))) for _ in range(2)]
    assert len(set(orders)) == 4


@pytest.mark.parametrize("batch_size", [4, 7])
def test_state_continues_exactly_also_with_another_batch_size(batch_size):
    dataset = counting(11, labelled=False)
    with loader_of(dataset, 4, seed=5) as loader:
        for _ in range(3):
            next(loader)
        state = json.loads(json.dumps(loader.state()))
        expected = np.concatenate([which(dataset, next(loader)) for _ in range(7)])
    assert state == {"seed": 5, "position": 12, "size": 11}
    with loader_of(dataset, batch_size, seed=99) as loader:
        next(loader)
        loader.restore(state)
        found = np.concatenate([which(dataset, next(loader)) for _ in range(4)])
    np.testing.assert_array_equal(found[:16], expected[:16])


def test_reading_goes_on_after_close():
    dataset = counting(10)
    loader = loader_of(dataset, 3)
    first = which(dataset, next(loader))
    loader.close()
    loader.close()
    second = which(dataset, next(loader))
    loader.close()
    with loader_of(dataset, 6) as other:
        np.testing.assert_array_equal(np.concatenate([first, second]), which(dataset, next(other)))


def test_close_ends_the_thread_and_few_batches_are_read_ahead():
    dataset = counting(10)
    reads = []
    read = dataset.read
    dataset.read = lambda split, indices: (reads.append(len(indices)), read(split, indices))[1]
    before = threading.active_count()
    with loader_of(dataset, 2) as loader:
        next(loader)
    assert threading.active_count() == before
    assert 1 <= len(reads) <= 3


def test_an_error_in_the_thread_is_raised_by_next():
    dataset = counting(10)
    read = dataset.read

    def broken(split, indices):
        raise DataError("the disk is gone; plug it in")

    with loader_of(dataset, 2) as loader:
        first = next(loader)
        loader.close()
        dataset.read = broken
        for _ in range(2):
            with pytest.raises(DataError, match="the disk is gone; plug it in"):
                next(loader)
        dataset.read = read
        second = next(loader)
    with loader_of(dataset, 4) as loader:
        np.testing.assert_array_equal(next(loader)[0], np.concatenate([first[0], second[0]]))


def test_what_cannot_be_loaded():
    dataset = counting(10, labelled=False)
    with pytest.raises(ValueError, match="batch_size=0"):
        loader_of(dataset, 0)
    empty = ArrayDataset(np.eye(2, dtype=np.float32), np.zeros((0, 2), np.float32))
    with pytest.raises(DataError, match="data 'counting': the test split is empty; import it with"):
        loader_of(empty, 1, split="test")
    loader = loader_of(dataset, 2)
    with pytest.raises(DataError, match="10 samples, but the saved position 12 is in one of 11"):
        loader.restore({"seed": 5, "position": 12, "size": 11})
    for state in ({}, {"seed": "x", "position": 0, "size": 10}):
        with pytest.raises(DataError, match="is not the state of a loader; use what"):
            loader.restore(state)


def test_a_constant_channel_is_named():
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    x[:, 1] = 0.1
    with pytest.raises(
        DataError, match=r"data 'flat': channel 1 is constant .*0\.1\), so it cannot"
    ):
        spec_of(ArrayDataset(x, x), "flat")
    x[:, 1] = 0
    with pytest.raises(DataError, match="channel 1 is constant"):
        spec_of(ArrayDataset(x, x), "flat")


def test_spec_is_per_channel():
    x = np.random.default_rng(0).normal(3, 2, size=(500, 2, 4, 4)).astype(np.float32)
    x[:, 1] *= 1e-3
    spec = spec_of(ArrayDataset(x, x), "two", sigma_data=1.0)
    np.testing.assert_allclose(spec.shift, x.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(spec.scale, 1 / x.std((0, 2, 3)), rtol=1e-5)
    assert (spec.source, spec.shape, spec.num_classes, spec.sigma_data) == ("two", (2, 4, 4), 0, 1)
