"""A run knows its data again: by digests that every kind of data has, in its recipe and its checkpoints."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from scmkit_cli.main import main

from scmkit import Run, compose, dataset_of, resume, train
from scmkit.composing.recipe import Recipe
from scmkit.data import ArrayDataset, Store, StoreWriter, derived, digest_of
from scmkit.data.derived import data_digest
from scmkit.data.digest import LIMIT
from scmkit.errors import DataError, RunError, UsageError
from scmkit.interfaces import AbstractDataset, Statistics
from scmkit.training.progress import Silent

SIZES = {"mlp.width": 8, "mlp.depth": 1, "mlp.embedding_dim": 8, "positional.channels": 8}
NAMES = ("cat", "dog", "emu")


def write(path, *, seed=0, shape=(2,), classes=3, names=NAMES, relabel=0, sizes=(12, 6)):
    """A store; what is asked for beside the path is what differs from the one trained on."""
    shutil.rmtree(path, ignore_errors=True)
    rng = np.random.default_rng(seed)
    with StoreWriter(
        path, shape=shape, dtype="float32", num_classes=classes, class_names=names
    ) as writer:
        for split, size in zip(("train", "test"), sizes, strict=True):
            x = rng.normal(size=(size, *shape)).astype(np.float32)
            labels = (np.arange(size, dtype=np.int32) + relabel) % max(1, classes)
            writer.append(split, x, labels if classes else None)
    return path


class Messages(Silent):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    store = write(folder / "photos.store")
    given = SIZES | {"train.steps": 2, "train.batch_size": 4}
    recipe = compose(["trigflow", "diffusion", "ddim"], given, data=str(store))
    return train(recipe, out=folder, name="run", reporter=Silent()).path


def rewrite(run, content):
    """Another recipe for a run, as if scmkit itself had written it."""
    Run(run, Recipe.from_json(content)).write_recipe(Recipe.from_json(content))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, beside its store as it was."""
    write(trained.parent / "photos.store")
    return shutil.copytree(trained, trained.parent / tmp_path.name)


def command(monkeypatch, capsys, *argv):
    monkeypatch.setattr(sys, "argv", ["scmkit", *map(str, argv)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "the samples of its train split are others; the samples of its test split"),
        ({"relabel": 1}, "the labels of its train split are others"),
        ({"names": ("dog", "cat", "emu")}, "its classes are 'dog, cat, emu', not 'cat, dog, emu'"),
        ({"names": ()}, "its classes are without names, not 'cat, dog, emu'"),
        ({"sizes": (12, 5)}, "its test split has 5 samples, not 6"),
        ({"shape": (3,)}, "its samples are of shape (3,), not (2,)"),
        ({"classes": 0, "names": ()}, "it has no labels, not 3 classes"),
        ({"classes": 4, "names": (*NAMES, "fox")}, "it has 4 classes, not 3 classes"),
    ],
)
def test_another_store_in_its_place_is_refused(run, monkeypatch, capsys, change, said):
    before = (run / "recipe.json").read_bytes()
    write(run.parent / "photos.store", **change)
    commands = [("resume", run, "--steps", "4"), ("eval", run, "--n", "4")]
    for argv in commands if "seed" in change else commands[:1]:
        code, err = command(monkeypatch, capsys, *argv)
        assert code == 2
        assert said in err
        assert "photos.store" in err
        assert "scmkit train --teacher RUN" in err
        assert err.count("\n") == 1
    with pytest.raises(DataError, match="is not what it was when the run began"):
        dataset_of(Run.load(run).recipe)
    assert (run / "recipe.json").read_bytes() == before


def test_the_same_data_imported_again_is_the_same(run):
    recipe = Run.load(run).recipe
    assert dataset_of(recipe).size("train") == 12
    assert recipe.data.digest == digest_of(Store(recipe.data.source))


def test_an_array_changed_in_place_is_noticed(run):
    """The writer's record holds only while no file is younger than it."""
    store = Store(Run.load(run).recipe.data.source)
    labels = store._arrays["train", "labels"]
    import tensorstore as ts

    ts.open(labels.spec(), open=True, read=True, write=True).result()[0].write(2).result()
    later = (store.path / "scmkit.json").stat().st_mtime_ns + 10**9
    for file in (store.path / "train" / "labels" / "c").iterdir():
        os.utime(file, ns=(later, later))
    with pytest.raises(DataError, match="the labels of its train split are others"):
        dataset_of(Run.load(run).recipe)


def test_a_run_without_a_digest_resumes_and_has_one_then(run, monkeypatch, capsys):
    raw = json.loads((run / "recipe.json").read_text())
    del raw["data"]["digest"]
    rewrite(run, raw)
    write(run.parent / "photos.store", shape=(3,))
    with pytest.raises(DataError, match="of shape"):
        resume(run, steps=3, reporter=Silent())
    write(run.parent / "photos.store", sizes=(13, 6))
    before = (run / "recipe.json").read_bytes()
    with pytest.raises(DataError, match="has 13 samples to train on, and had 12"):
        resume(run, steps=3, reporter=Silent())
    assert (run / "recipe.json").read_bytes() == before
    write(run.parent / "photos.store")
    code, err = command(
        monkeypatch, capsys, "eval", run, "--n", "4", "--metric", "mmd", "--steps", "1"
    )
    assert (code, err.count("has no digest of its data")) == (0, 1), err
    told = Messages()
    resumed = resume(run, steps=3, reporter=told)
    assert sum("has no digest of its data" in line for line in told.said) == 1
    assert resumed.recipe.data.digest == data_digest(Store(run.parent / "photos.store"))
    assert Run.load(run).recipe.data.digest is not None
    # A recipe that was edited to name other data meets the checkpoint's own note.
    other = write(run.parent / "other.store", seed=1)
    raw["data"]["source"] = str(other)
    rewrite(run, raw)
    with pytest.raises(RunError, match="a checkpoint of training on other data than"):
        resume(run, steps=4, reporter=Silent())


def test_steps_that_are_behind_change_nothing(run, monkeypatch, capsys):
    before = (run / "recipe.json").read_bytes()
    for argv in (["--steps", 1], ["--steps", 2], ["--on-nonfinite", "skip"], ["--steps", 0]):
        code, err = command(monkeypatch, capsys, "resume", run, *argv)
        assert code == 2
        assert err.count("\n") == 1
        assert (run / "recipe.json").read_bytes() == before
    assert "--steps 2: run" in command(monkeypatch, capsys, "resume", run, "--steps", 2)[1]


def test_a_teacher_of_other_data(run, tmp_path):
    """Other samples are told; other classes, of which each label would mean another, are refused."""
    given = {"train.steps": 1, "train.batch_size": 4}

    def student(**change):
        store = write(tmp_path / "own.store", **change)
        return compose(["scd"], given, data=str(store), teacher=run)

    told = Messages()
    made = train(student(seed=1), out=tmp_path, name="s", reporter=told)
    [line] = [said for said in told.said if "data" in said]
    assert "own.store') is not what teacher" in line
    assert "the samples of its train split are others" in line
    assert made.recipe.data.shift == Run.load(run).recipe.data.shift
    with pytest.raises(UsageError, match=r"other classes: its classes are .*, not 'dog, cat, emu'"):
        train(student(names=("dog", "cat", "emu")), out=tmp_path, name="n", reporter=Silent())
    assert not (tmp_path / "n").exists()


# Digests.


def test_stores_know_their_digest_without_being_read(tmp_path, monkeypatch):
    store = Store(write(tmp_path / "s"))
    whole = digest_of(store)
    monkeypatch.setattr(Store, "read", None)
    assert data_digest(store) == whole
    assert len(derived.digest(store)) == 64


def test_images_are_digested_as_they_are_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 4, 4), np.uint8)
    with StoreWriter(tmp_path / "s", shape=(1, 4, 4), dtype="uint8") as writer:
        writer.append("train", pixels[:5])
        writer.append("test", pixels[5:])
    x = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert data_digest(Store(tmp_path / "s")) == digest_of(ArrayDataset(x[:5], x[5:]))


@pytest.mark.parametrize("name", ["digits", "gmm", "two-moons", "checkerboard"])
def test_plugins_data_has_a_digest_that_is_the_same_each_time(name):
    one, other = (compose(["diffusion"], data=name).data for _ in range(2))
    assert one == other
    assert one.digest is not None


def test_options_of_a_plugins_data_change_its_digest():
    one, other = (compose(["diffusion"], {"gmm.seed": s}, data="gmm").data.digest for s in (0, 1))
    assert one is not None
    assert other is not None
    assert [*other.differences(one)] == [
        "the samples of its train split are others",
        "the samples of its test split are others",
    ]


class Endless(AbstractDataset):
    """Made as it is read; `odd` is one sample that differs."""

    shape, num_classes = (16,), 0

    def __init__(self, size, odd=None):
        self._size, self._odd, self.seen = size, odd, 0

    def size(self, split):
        return self._size if split == "train" else 3

    def read(self, split, indices):
        self.seen += len(indices)
        assert 0 <= indices.min() <= indices.max() < self.size(split)
        x = np.repeat((indices % 251)[:, None], 16, axis=1).astype(np.float32)
        return x + (indices == self._odd)[:, None].astype(np.float32), None

    def statistics(self):
        return Statistics((0.0,) * 16, (1.0,) * 16)

    def density(self):
        return None


def test_of_endless_data_a_part_stands_for_all():
    size = 2**62 + 1
    data = Endless(size)
    found = data_digest(data)
    assert data.seen < 2000
    assert found.train.size == size
    assert found == data_digest(Endless(size))
    assert found != data_digest(Endless(size, odd=size - 1))
    assert found != data_digest(Endless(size - 1))
    # Of what fits, all is looked at.
    small = Endless(5000, odd=1)
    assert LIMIT > 64 * 5000
    assert data_digest(small) == digest_of(small) != data_digest(Endless(5000))
