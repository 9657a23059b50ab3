"""How sources are understood: which folders are splits and classes, which arrays and labels are meant."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_files import (
    RNG,
    SPLITS,
    Z,
    anything,
    as_pixels,
    everything,
    images,
    imported,
    refused,
    save,
)
from mnist_format import idx

from scmkit.data import Store, StoreWriter, import_data, spec_of
from scmkit.data.classes import class_index, class_name, natural, numbered
from scmkit.data.readers.names import meaning_of, split_of
from scmkit.data.readers.tree import entries, open_tree
from scmkit.errors import DataError, UsageError
from scmkit.interfaces import Split

# Which folders are splits, classes, or pieces


def tree(root, *files):
    for file in files:
        save(root / file, images(1, 4, 4)[0])
    return root


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "val"), ("Train", "Test"), ("training_set", "Validation"), ("train2017", "val2017")],
)
@pytest.mark.parametrize("classes", [("",), ("n01440764", "n01443537")])
def test_splits_by_any_usual_name(tmp_path, train, test, classes):
    names = [f"{c}/{i}.png" for c in classes for i in range(2)]
    tree(tmp_path / "in", *(f"{split}/{name}" for split in (train, test) for name in names))
    store, told = imported(tmp_path / "in", tmp_path / "store")
    assert (store.size("train"), store.size("test")) == (len(names), len(names))
    assert store.class_names == (classes if classes != ("",) else ())
    assert f"folder '{train}'" in told
    assert f"folder '{test}'" in told


def test_a_third_split_is_named(tmp_path):
    tree(tmp_path / "in", "train/1.png", "test/1.png", "val/1.png", "val/2.png")
    store, told = imported(tmp_path / "in", tmp_path / "store")
    assert (store.size("train"), store.size("test"), store.num_classes) == (1, 1, 0)
    assert "unused   'val' with 2 files" in told


def test_a_class_may_be_called_like_a_split(tmp_path):
    tree(tmp_path / "in", "train/1.png", "bus/1.png", "tractor/1.png")
    store, _ = imported(tmp_path / "in", tmp_path / "store", test_fraction=0.0)
    assert store.class_names == ("bus", "tractor", "train")


@pytest.mark.parametrize(
    "files",
    [
        ("00000/00000.png", "00000/00999.png", "01000/01000.png"),  # FFHQ
        ("00000/img00000000.png", "00001/img00001999.png"),  # NVIDIA's dataset_tool
        ("00000/000000003.png", "00001/000010003.png"),  # img2dataset
    ],
)
@pytest.mark.parametrize("within", ["", "train/"])
def test_pieces_are_no_classes(tmp_path, files, within):
    tree(tmp_path / "in", *(within + file for file in files))
    store, told = imported(tmp_path / "in", tmp_path / "store", test_fraction=0.0)
    assert (store.size("train"), store.num_classes) == (len(files), 0)
    assert "the folders are pieces of one set (--labels takes them for classes)" in told
    store, _ = imported(tmp_path / "in", tmp_path / "b", labels=True, test_fraction=0.0)
    assert store.num_classes == 2


def test_numbered_classes_are_no_pieces(tmp_path):
    tree(tmp_path / "in", "00000/00000_00001.png", "00001/00001_00002.png")  # GTSRB
    store, told = imported(tmp_path / "in", tmp_path / "store", test_fraction=0.0)
    assert store.class_names == ("00000", "00001")
    assert "classes  2: '00000', '00001'" in told


def test_numbered_classes_are_in_the_order_of_numbers(tmp_path):
    tree(tmp_path / "in", *(f"{i}/a.png" for i in range(12)))
    store, _ = imported(tmp_path / "in", tmp_path / "store", test_fraction=0.0)
    assert store.class_names == tuple(map(str, range(12)))
    np.testing.assert_array_equal(store.labels("train"), range(12))


def test_no_labels_takes_every_image(tmp_path):
    files = ("a/1.png", "a/deep/2.png", "b/3.png", "4.png")
    tree(tmp_path / "in", *files)
    (tmp_path / "in/b/round").symlink_to(tmp_path / "in")
    store, told = imported(tmp_path / "in", tmp_path / "store", labels=False, test_fraction=0.0)
    assert (store.size("train"), store.num_classes) == (4, 0)
    assert "classes  none" in told


def test_folders_that_could_be_read_in_two_ways(tmp_path):
    path = tree(tmp_path / "a", "imagenet/train/n01/1.png", "imagenet/val/n01/1.png")
    refused(path, tmp_path, "has a subfolder 'train'", f"import '{path / 'imagenet'}' itself")
    path = tree(tmp_path / "b", "val/1.png")
    refused(path, tmp_path, "'val' is the name of a split", f"import '{path / 'val'}' itself")
    path = tree(tmp_path / "c", "train/1.png", "Training/1.png", "test/1.png")
    refused(path, tmp_path, "'Training' and 'train' are both names of the train split")
    path = tree(tmp_path / "d", "train/1.png", "test/a/1.png")
    refused(path, tmp_path, "has class folders such as 'a'", "--no-labels")
    path = tree(tmp_path / "e", "1.png")
    refused(path, tmp_path, "no class folders; leave --labels out", labels=True)


def test_files_beside_folders(tmp_path):
    path = tree(tmp_path / "in", "train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png")
    for stray in ("LICENSE", "train/names.txt"):
        (path / stray).write_text("text")
        refused(path, tmp_path, f"'{stray.split('/')[-1]}' lies beside", "--skip-non-images")
        passed = []
        options = {"skipped": lambda file, reason, passed=passed: passed.append(file)}
        store = import_data(path, tmp_path / stray[0], skip_non_images=True, **options)
        assert (store.size("train"), store.size("test"), store.num_classes) == (2, 2, 2)
        assert passed == [path / stray]
        (path / stray).unlink()
    tree(path, "train/5.png")
    refused(path, tmp_path, "'5.png' lies beside class folders such as 'a'", skip_non_images=True)


names = st.text("abxyz019_-", min_size=1, max_size=6).filter(lambda name: name[0] != ".")


@settings(max_examples=40)
@given(st.lists(names, max_size=8, unique=True))
def test_the_natural_order_is_an_order_by_numbers(found):
    ordered = sorted(found, key=natural)
    assert sorted(reversed(ordered), key=natural) == ordered
    assert sorted(map(str, range(40)), key=natural) == list(map(str, range(40)))
    # Of one width, and without digits, it is the order of text.
    same = sorted((name.ljust(6, "_") for name in found if not set(name) & set("019")), key=natural)
    assert same == sorted(same)


@given(
    word=st.sampled_from(["train", "training", "test", "val", "valid", "validation", "dev"]),
    case=st.sampled_from([str.lower, str.upper, str.title]),
    around=st.sampled_from(["{}", "{}_set", "{}-images", "{}2012", "images_{}"]),
)
def test_names_of_splits(word, case, around):
    part = split_of(case(around.format(word)))
    assert part == {"v": "val", "d": "val"}.get(word[0], word.removesuffix("ing"))
    assert meaning_of(case(f"{word}_labels")) == (part, "labels")
    assert meaning_of(case(f"x-{word}")) == meaning_of(case(f"{word}_images")) == (part, "samples")


@given(names)
def test_names_of_classes_are_no_splits(name):
    assert split_of(name) is None


@anything
@given(
    classes=st.lists(names, min_size=1, max_size=4, unique=True),
    split=st.sampled_from([("",), ("train/",), ("train/", "test/"), ("Train/", "VAL/")]),
)
def test_what_is_imported_is_what_is_there(tmp_path_factory, classes, split):
    root = tmp_path_factory.mktemp("tree")
    for part in split:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            (root / part / name / "a.png").touch()
    found = open_tree(root)
    assert set(found.names) in (set(classes), set())
    assert len(found.roots) == len(split)
    for folders in found.folders.values():
        files = [(file.name, label) for folder, label in folders for file in entries(folder)[1]]
        assert len(files) == len(classes)
        assert all(found.names[label] == folder.name for folder, label in folders if label >= 0)
    flat = open_tree(root, labels=False)
    assert not flat.names
    assert all(
        sum(len(entries(f)[1]) for f, _ in fs) == len(classes) for fs in flat.folders.values()
    )


# Which arrays are meant, and which labels are classes


@pytest.mark.parametrize(
    ("keys", "test"),
    [
        (("arr_0", "arr_1"), 0),  # numpy.savez(file, x, y), OpenAI's batches
        (("images", "y"), 0),
        (("x", "labels"), 0),
        (("data", "target"), 0),
        (("x_train", "y_train", "x_val", "y_val"), 5),
        (("X_train", "Y_train", "X_test", "Y_test"), 5),
        (("train_images", "train_labels", "test_images", "test_labels"), 5),  # medMNIST
        (("x", "y", "x_test", "y_test"), 5),
    ],
)
def test_arrays_by_the_usual_names(tmp_path, keys, test):
    x, y = images(20, 4, 4), np.arange(20) % 4
    parts = (x, y) if len(keys) == 2 else (x, y, x[:5], y[:5])
    np.savez(tmp_path / "in.npz", allow_pickle=False, **dict(zip(keys, parts, strict=True)))
    store, told = imported(tmp_path / "in.npz", tmp_path / "store", test_fraction=0.0)
    assert (store.size("train"), store.size("test"), store.num_classes) == (20, test, 4)
    np.testing.assert_array_equal(store.labels("train"), y)
    assert "unused" not in told
    assert f"array '{keys[0]}' with labels '{keys[1]}'" in told
    store, told = imported(tmp_path / "in.npz", tmp_path / "b", labels=False, test_fraction=0.0)
    assert store.num_classes == 0
    assert f"unused   '{keys[1]}': labels were not asked for" in told


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"x_val": 3, "y_val": 3}, ["'x_val': a store has two splits", "'y_val': a store has"]),
        ({"mean": 3}, ["'mean': not called after samples or labels"]),
        ({"y_val": 3}, ["'y_val': there are no samples of a val split"]),
    ],
)
def test_arrays_that_are_not_used_are_named(tmp_path, others, told):
    given = {f"{a}_{s}": Z((6, 2)) if a == "x" else np.arange(6) % 2 for a in "xy" for s in SPLITS}
    given |= {name: Z((n, 2)) if name[0] == "x" else np.arange(n) for name, n in others.items()}
    np.savez(tmp_path / "in.npz", allow_pickle=False, **given)
    store, lines = imported(tmp_path / "in.npz", tmp_path / "store")
    assert (store.size("train"), store.size("test"), store.num_classes) == (6, 6, 2)
    assert lines.count("unused") == len(told)
    for line in told:
        assert f"unused   {line}" in lines


def test_an_array_that_may_be_labels_and_is_not(tmp_path):
    np.savez(tmp_path / "in.npz", Z((6, 2)), Z((6, 3)))
    store, told = imported(tmp_path / "in.npz", tmp_path / "a")
    assert store.num_classes == 0
    assert "unused   'arr_1': no labels" in told
    np.savez(tmp_path / "in.npz", x=Z((6, 2)), y=np.arange(6) % 2, classes=np.array(["a", "b"]))
    store, told = imported(tmp_path / "in.npz", tmp_path / "b")
    assert store.num_classes == 2
    assert "unused   'classes': 'y' is" in told
    np.savez(tmp_path / "in.npz", x=Z((6, 2)), y=np.arange(6) % 2, label=np.arange(6) % 3)
    refused(tmp_path / "in.npz", tmp_path, "more than one set of labels", "'label' and 'y'")
    both = {"x": Z((6, 2)), "x_test": Z((6, 2)), "y_test": np.arange(6) % 2}
    np.savez(tmp_path / "in.npz", allow_pickle=False, classes=Z((2, 2)), **both)
    refused(tmp_path / "in.npz", tmp_path, "only the test split has labels ('y_test')")
    np.savez(tmp_path / "in.npz", x=Z((6, 2)))
    refused(tmp_path / "in.npz", tmp_path, "no labels by a known name", labels=True)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(0, 10**6), min_size=1, max_size=9, unique=True),
    draws=st.lists(st.integers(0, 8), min_size=1, max_size=30),
    cut=st.integers(0, 29),
)
def test_every_value_of_the_labels_is_a_class(values, draws, cut):
    given = np.array([values[i % len(values)] for i in draws])
    present = sorted(set(given.tolist()))
    parts: dict[Split, np.ndarray] = {"train": given[:cut], "test": given[cut:]}
    indices, count, class_names = numbered(parts)
    assert count == len(present)
    assert not class_names or class_names == tuple(map(str, present))
    for split, part in parts.items():
        assert indices[split].dtype == np.int32
        back = [int(class_name(i, class_names)) for i in indices[split].tolist()]
        assert back == part.tolist()
    for value in present:
        index = class_index(str(value), count, class_names)
        assert int(class_name(index, class_names)) == value


def test_labels_with_gaps(tmp_path):
    for i, values in enumerate(([1, 2, 3, 4], [3, 7, 20, 39])):
        y = np.tile(values, 25)
        np.savez(tmp_path / "in.npz", x=RNG.normal(size=(100, 2)), y=y)
        store, told = imported(tmp_path / "in.npz", tmp_path / f"{i}", test_fraction=0.0)
        assert store.class_names == tuple(map(str, values))
        np.testing.assert_array_equal(store.labels("train"), np.tile(np.arange(4), 25))
        assert "classes  4: " + ", ".join(f"'{v}'" for v in values) in told


def test_idx_folders_name_what_they_do_not_use(tmp_path):
    y = 1 + np.arange(12, dtype=np.uint8) % 3  # EMNIST's letters count from 1.
    (tmp_path / "in").mkdir()
    (tmp_path / "in/train-images-idx3-ubyte").write_bytes(idx(images(12, 3, 3)))
    (tmp_path / "in/train-labels-idx1-ubyte").write_bytes(idx(y))
    (tmp_path / "in/notes.txt").write_text("text")
    store, told = imported(tmp_path / "in", tmp_path / "a", test_fraction=0.0)
    assert store.class_names == ("1", "2", "3")
    np.testing.assert_array_equal(store.labels("train"), y - 1)
    assert "with labels 'train-labels-idx1-ubyte'" in told
    assert told.count("unused") == told.count("unused   'notes.txt'") == 1
    store, told = imported(tmp_path / "in", tmp_path / "b", labels=False)
    assert store.num_classes == 0
    assert "unused   'train-labels-idx1-ubyte'" in told


def test_a_class_of_the_test_split_alone_is_named(tmp_path):
    arrays = {"x_train": Z((6, 2)), "x_test": Z((6, 2))}
    arrays["x_train"][0] = arrays["x_test"][0] = 1
    np.savez(tmp_path / "in.npz", y_train=np.arange(6) % 2, y_test=np.arange(6) % 4, **arrays)
    _, told = imported(tmp_path / "in.npz", tmp_path / "store")
    assert "warning  class '2' and 1 more: all samples are in the test split" in told


def test_stores_of_earlier_versions_keep_their_numbers(tmp_path):
    names = tuple(sorted(map(str, range(12))))
    with StoreWriter(
        tmp_path / "s", shape=(2,), dtype="float32", num_classes=12, class_names=names
    ) as writer:
        writer.append("train", RNG.normal(size=(12, 2)).astype(np.float32), np.arange(12))
    store = Store(tmp_path / "s")
    assert store.class_names[2] == "10"
    np.testing.assert_array_equal(store.labels("train"), np.arange(12))
    assert class_index("2", 12, store.class_names) == 4


def test_which_class_is_meant():
    named = ("ant", "bee", "7up")
    assert [class_index(c, 3, named) for c in ("ant", "7up", "1")] == [0, 2, 1]
    assert class_index("9", 10, ()) == 9
    text_order = tuple(sorted(map(str, range(12))))  # As earlier versions sorted folders.
    assert [text_order[class_index(str(i), 12, text_order)] for i in range(12)] == [
        str(i) for i in range(12)
    ]
    assert class_index("7", 9, ("00005", "00006", "00007")) == 2
    for asked, count, names_given, part in (
        ("cat", 0, (), "this data has no classes"),
        ("10", 10, (), "this data has classes 0 to 9"),
        ("-1", 10, (), "this data has classes 0 to 9"),
        ("bea", 3, named, "this data has classes 'ant', 'bee', '7up'; did you mean 'bee'?"),
        ("3", 3, named, "this data has classes 'ant'"),
        ("0", 2, ("1", "2"), "this data has classes '1', '2'"),
        ("9" * 5000, 2, ("1", "2"), "this data has classes"),
        ("5", 99, tuple(map(str, range(100, 199))), "'108', '109', ..., '198'"),
    ):
        with pytest.raises(UsageError, match=re.escape(part)):
            class_index(asked, count, names_given)


# Constant channels


def test_constant_channels_are_named_and_dropped(tmp_path):
    x = images(40, 4, 4, 3)
    x[..., 2] = 7
    np.savez(tmp_path / "in.npz", x=x)
    store, told = imported(tmp_path / "in.npz", tmp_path / "a")
    assert "warning  channel 2 is constant" in told
    with pytest.raises(DataError, match=r"channel 2 is constant .* --drop-constant"):
        spec_of(store, "a")
    store, told = imported(tmp_path / "in.npz", tmp_path / "b", drop_constant=True)
    assert "dropped  channel 2 is constant" in told
    assert "warning" not in told
    assert store.shape == (2, 4, 4)
    spec_of(store, "b")
    found = np.concatenate([everything(store, split)[0] for split in SPLITS])
    kept = np.moveaxis(x[..., :2], -1, 1)
    assert sorted(as_pixels(found).reshape(40, -1).tolist()) == sorted(
        kept.reshape(40, -1).tolist()
    )


def test_constant_coordinates_are_those_of_the_train_split(tmp_path):
    x = RNG.normal(size=(10, 20)).astype(np.float32)
    test = x[:4].copy()
    x[:, ::2] = 0.3
    np.savez(tmp_path / "in.npz", x_train=x, x_test=test)
    store, told = imported(tmp_path / "in.npz", tmp_path / "a", drop_constant=True)
    assert "dropped  channels 0, 2, 4, 6, 8, 10, 12, 14, 16, 18 are constant" in told
    np.testing.assert_array_equal(everything(store, "test")[0], test[:, 1::2])
    np.savez(tmp_path / "in.npz", x_train=x[:, ::2], x_test=test[:, ::2])
    refused(tmp_path / "in.npz", tmp_path, "every channel is constant", drop_constant=True)
