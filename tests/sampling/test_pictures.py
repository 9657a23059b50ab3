"""Pictures of samples, and the classes that are written below them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from import_files import RNG, images, save
from scmkit_cli.data_picture import _in_turn
from scmkit_cli.options import class_names, class_of

from scmkit import Recipe, compose
from scmkit.data import ArrayDataset, Store, StoreWriter, import_data
from scmkit.errors import OptionError, UsageError
from scmkit.interfaces import AbstractDataset
from scmkit.sampling import class_captions, class_columns, image_grid


def test_captions_stand_below_their_images():
    pixels = RNG.uniform(-1, 1, (6, 3, 16, 16)).astype(np.float32)
    bare = image_grid(pixels, 3)
    blank = image_grid(pixels, 3, captions=[""] * 6)
    named = image_grid(pixels, 3, captions=["ant", "", "", "", "a name that is far too long", ""])
    assert blank.shape == named.shape == (bare.shape[0] + 20, bare.shape[1], 3)
    np.testing.assert_array_equal(named[:72], bare[:72])
    rows, columns = np.nonzero((named != blank).any(axis=2))
    first, second = rows < 90, rows >= 90
    assert set(columns[first]) <= set(range(8, 72))
    # Cut to the width of its image.
    assert set(columns[second]) <= set(range(80, 144))
    assert len(columns[second]) > len(columns[first]) > 0


def test_captions_are_names_that_can_be_drawn():
    assert class_captions([1, 0, 1], ("ant", "bee")) == ["bee", "ant", "bee"]
    assert class_captions([1, 0], ("\x1b[31m", "\u8721")) == ["1", "0"]
    assert class_captions([7], ()) == ["7"]
    assert [class_columns(64, k) for k in (0, 3, 10, 1000)] == [8, 3, 10, 8]


class Slow(AbstractDataset):
    """A data set of which labels come with samples alone."""

    shape, num_classes = (2,), 3

    def size(self, split):
        return 10_000 if split == "train" else 0

    def read(self, split, indices):
        return np.zeros((len(indices), 2), np.float32), (indices % 3).astype(np.int32)

    def statistics(self):
        raise NotImplementedError

    def density(self):
        return None


def test_labels_of_a_whole_split(tmp_path):
    np.testing.assert_array_equal(Slow().labels("train"), np.arange(10_000) % 3)
    np.testing.assert_array_equal(Slow().labels("test"), [])
    with StoreWriter(tmp_path / "s", shape=(2,), dtype="float32", num_classes=3) as writer:
        writer.append("train", np.zeros((4, 2), np.float32), np.array([2, 0, 2, 1], np.int32))
    np.testing.assert_array_equal(Store(tmp_path / "s").labels("train"), [2, 0, 2, 1])
    np.testing.assert_array_equal(Store(tmp_path / "s").labels("test"), [])


@pytest.mark.parametrize("sizes", [(90, 9, 1), (20, 20, 20), tuple([2] * 200)])
def test_every_class_is_shown(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    x, none = np.zeros((len(labels), 1, 2, 2), np.float32), labels[:0]
    many = {"train_labels": labels, "test_labels": none, "num_classes": len(sizes)}
    chosen = _in_turn(ArrayDataset(x, x[:0], **many))
    assert len(chosen) == len(set(chosen)) <= 64
    shown = labels[chosen]
    assert len(set(shown)) == min(64, len(sizes))
    assert (min(shown), max(shown)) == (0, len(sizes) - 1)


@pytest.fixture
def store(tmp_path):
    for name in ("ant", "bee", "cat"):
        for i in range(2):
            save(tmp_path / "in" / name / f"{i}.png", images(1, 4, 4)[0])
    import_data(tmp_path / "in", tmp_path / "store", test_fraction=0.0)
    return tmp_path / "store"


def test_a_recipe_knows_the_names_of_classes(store):
    recipe = compose(["trigflow", "diffusion"], {}, data=str(store))
    recipe = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert class_names(recipe) == recipe.data.class_names == ("ant", "bee", "cat")
    assert [class_of(recipe, asked) for asked in ("cat", "1", None)] == [2, 1, None]
    raw = recipe.to_json()
    with pytest.raises(OptionError, match="3 class names for 2 classes"):
        Recipe.from_json(raw | {"data": raw["data"] | {"num_classes": 2}})
    del raw["data"]["class_names"]
    earlier = Recipe.from_json(raw)
    assert class_of(earlier, "cat") == 2
    shutil.rmtree(store)
    assert class_of(recipe, "cat") == 2
    assert class_of(earlier, "2") == 2
    with pytest.raises(UsageError, match="class cat: this data has classes 0 to 2"):
        class_of(earlier, "cat")


def test_a_store_of_other_classes_lends_no_names(store, tmp_path):
    recipe = compose(["trigflow", "diffusion"], {}, data=str(store))
    earlier = recipe.replace(data=dataclasses.replace(recipe.data, class_names=(), num_classes=4))
    assert class_names(earlier) == ()
    np.savez(tmp_path / "in.npz", x=RNG.normal(size=(4, 1)))
    import_data(tmp_path / "in.npz", tmp_path / "plain", test_fraction=0.0)
    recipe = compose(["trigflow", "diffusion"], {}, data=str(tmp_path / "plain"))
    with pytest.raises(UsageError, match="this data has no classes"):
        class_of(recipe, "0")
