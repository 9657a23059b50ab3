"""Feature spaces: the classifier, where things derived from a data set are kept, and when they hold."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scmkit_cli.main import main
from scmkit_plugins.datasets import digits, two_moons
from scmkit_plugins.features import classifier

from scmkit.data import ArrayDataset, Store, StoreWriter, derived
from scmkit.data.derived import digest, digest_arrays, directory_of, keep, recall
from scmkit.errors import DataError
from scmkit.evaluation.spaces import Selection, Space
from scmkit.interfaces import AbstractFeatures, Features
from scmkit.plugin import NoOptions

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 1, 4, 4), np.uint8)
LABELS = np.arange(30, dtype=np.int32) % 3
ABOUT = {"data": "d", "options": "{}"}
ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.asarray(0.5)}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SCMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path) -> Store:
    with StoreWriter(tmp_path / "s", shape=(1, 4, 4), dtype="uint8", num_classes=3) as writer:
        writer.append("train", PIXELS[:20], LABELS[:20])
        writer.append("test", PIXELS[20:], LABELS[20:])
    return Store(tmp_path / "s")


def in_memory(pixels: np.ndarray = PIXELS, labels: np.ndarray = LABELS, train: int = 20):
    x = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return ArrayDataset(
        x[:train],
        x[train:],
        train_labels=labels[:train],
        test_labels=labels[train:],
        num_classes=3,
    )


def test_the_digest_is_of_the_data_alone(cache, store, monkeypatch):
    whole = digest(in_memory())
    assert digest(store) == whole
    monkeypatch.setattr("scmkit.data.digest._BLOCK", 200)
    assert digest(in_memory()) == whole
    pixels, labels = PIXELS.copy(), LABELS.copy()
    pixels[29, 0, 3, 3] ^= 1
    labels[0] = 2
    others = {
        digest(in_memory(pixels)),
        digest(in_memory(labels=labels)),
        digest(in_memory(train=19)),
    }
    assert len({*others, whole}) == 4


def test_the_digest_of_a_store_is_remembered_until_it_changes(cache, store, monkeypatch):
    metadata = store.path / "scmkit.json"
    content = json.loads(metadata.read_text())
    del content["digests"]  # As in stores of earlier versions.
    metadata.write_text(json.dumps(content))
    first = digest(Store(store.path))
    assert first == digest(store)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", None)
        assert digest(Store(store.path)) == first
    file = store.path / next(name for name in store.metadata.files if "/c/" in name)
    os.utime(file, ns=(1, 1))
    reads = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda *args: reads.append(args) or read(*args))
    assert digest(Store(store.path)) == first
    assert reads


def test_derived_things_are_beside_a_store_and_disturb_it_not(cache, store, monkeypatch, capsys):
    assert directory_of(store) == store.path / "derived"
    keep(directory_of(store), "x", ABOUT, ARRAYS)
    np.testing.assert_array_equal(Store(store.path).read("test", np.arange(10))[1], LABELS[20:])
    monkeypatch.setattr("sys.argv", ["scmkit", "data", "info", str(store.path)])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    assert "20" in capsys.readouterr().out


def test_a_store_that_cannot_be_written_to_and_data_in_memory_use_the_cache(cache, store):
    (store.path / "derived").touch()
    expected = cache / digest(in_memory())[:32]
    assert directory_of(store) == directory_of(in_memory()) == expected


def test_the_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert derived.cache_directory() == Path(os.environ["SCMKIT_CACHE"])
    monkeypatch.delenv("SCMKIT_CACHE")
    assert derived.cache_directory() == Path("/x/scmkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert derived.cache_directory() == Path.home() / ".cache" / "scmkit"


def test_what_is_kept_is_recalled(tmp_path, capsys):
    assert recall(tmp_path, "x", ABOUT) is None
    keep(tmp_path, "x", ABOUT, ARRAYS)
    known = recall(tmp_path, "x", ABOUT)
    assert known is not None
    assert digest_arrays(known) == digest_arrays(ARRAYS)
    assert recall(tmp_path, "x", {**ABOUT, "data": "e"}) is None
    assert recall(tmp_path, "y", ABOUT) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["flipped", "cut", "text", "another's"])
def test_what_was_changed_is_not_trusted(tmp_path, capsys, damage):
    keep(tmp_path, "x", ABOUT, ARRAYS)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    elif damage == "cut":
        del content[-1:]
    elif damage == "text":
        content = b"hello"
    else:
        keep(tmp_path / "other", "x", {**ABOUT, "data": "e"}, ARRAYS)
        content = next((tmp_path / "other").iterdir()).read_bytes()
    file.write_bytes(content)
    assert recall(tmp_path, "x", ABOUT) is None
    assert "computing its content again" in capsys.readouterr().err


def test_what_cannot_be_kept_is_said(tmp_path, capsys):
    (tmp_path / "file").touch()
    keep(tmp_path / "file", "x", ABOUT, ARRAYS)
    assert "cannot be written" in capsys.readouterr().err


class Means(AbstractFeatures):
    """The mean of each sample and its square; counts samples."""

    digest = "0" * 16

    def __init__(self) -> None:
        self.facts = {}
        self.seen = []

    def __call__(self, samples: np.ndarray) -> Features:
        self.seen.append(len(samples))
        mean = samples.reshape(len(samples), -1).mean(1)
        return Features(np.stack([mean, mean**2], 1), np.full((len(samples), 2), 0.5, np.float32))


def test_features_of_real_data_are_computed_once(tmp_path):
    features, dataset, told = Means(), in_memory(), []
    space = Space("means", {}, features, batch=8)
    where = tmp_path, digest(dataset)

    def of(split, indices) -> Features:
        chosen = Selection(split, np.asarray(indices))
        return space.of_real(dataset, chosen, where, lambda *args: told.append(args))

    first, again = of("train", range(20)), of("train", range(20))
    assert features.seen == [8, 8, 8]
    assert told == [("means features of train", 20, 20)]
    np.testing.assert_array_equal(first.vectors, again.vectors)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)
    expected = dataset.read("train", np.arange(20))[0].mean((1, 2, 3))
    np.testing.assert_allclose(first.vectors[:, 0], expected, rtol=1e-6)
    features.seen.clear()
    of("train", range(19))
    of("test", range(10))
    features.digest = "1" * 16
    of("train", range(20))
    assert features.seen == [8, 8, 8, 8, 8, 8, 8, 8]


def test_the_classifier_tells_digits_apart_and_is_trained_once(tmp_path, capsys):
    dataset, config = digits.build_dataset(NoOptions()), classifier.Options(steps=200)
    built = classifier.build(config, dataset, tmp_path)
    assert "training the classifier" in capsys.readouterr().err
    assert float(built.facts["test accuracy"]) > 0.97
    x, labels = dataset.read("test", np.arange(500))
    found = built(x)
    assert found.vectors.shape == (500, 64)
    assert found.probabilities is not None
    accuracy = (found.probabilities.argmax(1) == labels).mean()
    assert accuracy == pytest.approx(built.facts["test accuracy"])
    again = classifier.build(config, dataset, tmp_path)
    assert (again.digest, again.facts) == (built.digest, built.facts)
    np.testing.assert_array_equal(again(x[:9]).vectors, built(x[:9]).vectors)
    assert capsys.readouterr().err == ""


def small_moons(**options) -> ArrayDataset:
    return two_moons.build_dataset(two_moons.TwoMoonsOptions(size=200, **options))


def test_a_classifier_is_trained_again_where_it_must_be(tmp_path, capsys):
    moons = small_moons()

    def build(dataset=moons, **options) -> classifier.ClassifierFeatures:
        return classifier.build(classifier.Options(steps=60, width=4, **options), dataset, tmp_path)

    def trained() -> bool:
        return "training the classifier" in capsys.readouterr().err

    first = build()
    assert trained()
    assert float(first.facts["test accuracy"]) > 0.8
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    # Deterministic, so that nothing changes for those who compare with the first.
    assert build().digest == first.digest
    assert trained()
    assert build().digest == first.digest
    assert not trained()
    assert build(seed=1).digest != first.digest
    assert trained()
    assert build(small_moons(seed=1)).digest != first.digest
    assert trained()


def test_a_classifier_needs_classes(tmp_path):
    dataset = ArrayDataset(np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(DataError, match="no classes to tell apart"):
        classifier.build(classifier.Options(), dataset, tmp_path)
