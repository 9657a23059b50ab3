"""The data sets that ship with scmkit, and data in memory."""

import numpy as np
import pytest
from mnist_format import write_mnist_format
from scmkit_plugins.datasets import checkerboard, digits, fashion_mnist, gmm, two_moons

from scmkit.data import ArrayDataset, Mixture, import_data
from scmkit.errors import DataError

PLUGINS = [digits.plugin, two_moons.plugin, checkerboard.plugin, gmm.plugin]


def build(plugin, **options):
    (factory,) = plugin.provides.values()
    return factory(plugin.config(**options))


def everything(dataset, split):
    return dataset.read(split, np.arange(dataset.size(split)))


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
def test_every_data_set(plugin):
    dataset, again = build(plugin), build(plugin)
    assert min(dataset.size("train"), dataset.size("test")) > 0
    for split in ("train", "test"):
        x, labels = everything(dataset, split)
        assert x.dtype == np.float32
        assert x.shape == (dataset.size(split), *dataset.shape)
        np.testing.assert_array_equal(x, everything(again, split)[0])
        if dataset.num_classes:
            assert labels.dtype == np.int32
            assert set(labels) == set(range(dataset.num_classes))
        else:
            assert labels is None
    x, _ = everything(dataset, "train")
    axes = (0, *range(2, x.ndim))
    statistics = dataset.statistics()
    np.testing.assert_allclose(statistics.mean, x.mean(axes, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, x.std(axes, dtype=np.float64), rtol=1e-9)


def test_digits():
    dataset = build(digits.plugin)
    assert (dataset.shape, dataset.num_classes) == ((1, 8, 8), 10)
    assert (dataset.size("train"), dataset.size("test")) == (1297, 500)
    x, labels = everything(dataset, "train")
    assert (x.min(), x.max()) == (-1, 1)
    np.testing.assert_array_equal(x * 8 % 1, 0)
    # A zero has a dark middle, a one a bright one.
    middle = x[:, 0, 3:5, 3:5].mean((1, 2))
    assert middle[labels == 0].mean() < -0.8 < 0.4 < middle[labels == 1].mean()
    both = np.concatenate([x, everything(dataset, "test")[0]]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797


def test_two_moons():
    dataset = build(two_moons.plugin, size=1001, noise=0.0, seed=3)
    x, labels = everything(dataset, "train")
    assert dataset.size("train") == dataset.size("test") == 1001
    assert (dataset.shape, dataset.num_classes) == ((2,), 2)
    centre = np.where(labels[:, None] == 0, (0.0, 0.0), (1.0, 0.5))
    np.testing.assert_allclose(np.linalg.norm(x - centre, axis=1), 1, atol=1e-6)
    assert np.all((x - centre)[:, 1] * (1 - 2 * labels) > -1e-6)
    assert abs(labels.mean() - 0.5) < 0.001


def test_checkerboard():
    x, labels = everything(build(checkerboard.plugin, size=8000), "train")
    assert labels is None
    fields = np.floor(x).astype(int)
    assert np.all(fields.sum(1) % 2 == 0)
    _, counts = np.unique(fields, axis=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 850


@pytest.mark.parametrize("dimension", [1, 3])
def test_gmm_is_drawn_from_its_density(dimension):
    dataset = build(gmm.plugin, dimension=dimension)
    density = dataset.density()
    assert isinstance(density, Mixture)
    assert density.means.shape == (dimension, 2)
    x, _ = everything(dataset, "train")
    assert dataset.shape == (dimension,)
    w, m, s = (np.asarray(a, np.float64) for a in (density.weights, density.means, density.stds))
    np.testing.assert_allclose(x.mean(0), (w * m).sum(-1), atol=0.02)
    np.testing.assert_allclose((x**2).mean(0), (w * (m**2 + s**2)).sum(-1), rtol=0.03)
    np.testing.assert_allclose((x < -0.1).mean(0), w[:, 0], atol=0.02)


def test_fashion_mnist_is_what_its_files_hold(tmp_path):
    """As a plugin and imported into a store, the same."""
    files = write_mnist_format(tmp_path / "files")
    dataset = build(fashion_mnist.plugin, path=str(files))
    assert (dataset.shape, dataset.num_classes, dataset.levels) == ((1, 28, 28), 10, 256)
    assert (dataset.size("train"), dataset.size("test")) == (40, 20)
    store = import_data(files, tmp_path / "store")
    for split in ("train", "test"):
        for ours, stored in zip(everything(dataset, split), everything(store, split), strict=True):
            np.testing.assert_array_equal(ours, stored)
    x, labels = everything(dataset, "train")
    np.testing.assert_array_equal((x[:, 0, :, 12] > 0.5).sum(1), 2 * labels + 2)


@pytest.mark.parametrize(
    ("missing", "match"),
    [
        ("*", "install Debian's package dataset-fashion-mnist, or name a folder"),
        ("t10k*", "has no t10k files; add those two"),
        ("train-labels*", "'train-labels-idx1-ubyte' is missing"),
    ],
)
def test_fashion_mnist_says_what_is_missing(tmp_path, missing, match):
    for file in write_mnist_format(tmp_path).glob(missing):
        file.unlink()
    with pytest.raises(DataError, match=match):
        build(fashion_mnist.plugin, path=str(tmp_path))


@pytest.mark.parametrize("plugin", PLUGINS[1:], ids=lambda p: p.name)
def test_seeds_and_splits_differ(plugin):
    one, two = build(plugin, size=100, seed=1), build(plugin, size=100, seed=2)
    assert not np.array_equal(everything(one, "train")[0], everything(two, "train")[0])
    assert not np.array_equal(everything(one, "train")[0], everything(one, "test")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": np.zeros((0, 2), np.float32)}, "the train split is empty"),
        ({"test": np.zeros((3, 3), np.float32)}, r"train has \(2,\), test has \(3,\)"),
        ({"train_labels": np.zeros(3, int)}, "labels were given, but num_classes is 0"),
        ({"num_classes": 2}, "3 train samples need as many labels, not none"),
        ({"num_classes": 2, "train_labels": np.full(3, 2)}, r"train labels must lie in 0\.\.1"),
    ],
)
def test_arrays_that_do_not_fit(arguments, message):
    x = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=message):
        ArrayDataset(**({"train": x, "test": x} | arguments))


def test_levels_are_of_discrete_data_only():
    assert [build(plugin).levels for plugin in PLUGINS] == [17, 0, 0, 0]
    samples = np.zeros((2, 1), np.float32)
    assert ArrayDataset(samples, samples, levels=2).levels == 2
    with pytest.raises(ValueError, match="levels=1: two at least"):
        ArrayDataset(samples, samples, levels=1)
